"""Batches of decoded images of an evaluation set, prepared for a network as open_clip does.

Shapes: B images of `size` × `size` pixels.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch
from open_clip.transform import image_transform

from dr_pipeline.config.evaluation import Engine
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.evaluation.data import EvaluationImage, Target
from dr_pipeline.networks.images import ImageSpec
from dr_pipeline.views.render import decode


class ImageLoader:
    """Decodes and prepares the images of one task; `unreadable` counts the images that cannot be used, by reason."""

    def __init__(self, spec: ImageSpec, engine: Engine):
        self._image_size, self._engine = spec.image_size, engine
        self._transform = image_transform(
            spec.image_size,
            is_train=False,
            mean=spec.mean,
            std=spec.std,
            resize_mode=engine.resize_mode,
            interpolation=engine.interpolation,
        )
        self.unreadable: Counter[str] = Counter()

    def batches(self, items: Iterator[EvaluationImage[Target]]) -> Iterator[tuple[torch.Tensor, list[Target]]]:
        """Normalised images [B, 3, size, size] with their targets; threads decode the next batch meanwhile."""
        with ThreadPoolExecutor(self._engine.threads) as pool:
            decoding: list[tuple[Future[torch.Tensor], Target]] = []
            while chunk := list(islice(items, self._engine.batch_size)):
                begun = [(pool.submit(self._load, item), item.target) for item in chunk]
                yield from self._collect(decoding)
                decoding = begun
            yield from self._collect(decoding)

    def _load(self, item: EvaluationImage[Target]) -> torch.Tensor:
        image = decode(item.read(), self._engine.max_image_pixels)
        # It is resized before it is cropped, so that a long thin image would take gigabytes.
        if max(image.size) / min(image.size) * self._image_size**2 > self._engine.max_image_pixels:
            raise SampleSkipped("image too large", f"{image.width} × {image.height} px, too long for its width")
        return self._transform(image)

    def _collect(self, batch: list[tuple[Future[torch.Tensor], Target]]) -> Iterator[tuple[torch.Tensor, list[Target]]]:
        """The decoded batch; nothing where no image of it can be used."""
        loaded = []
        for future, target in batch:
            try:
                loaded.append((future.result(), target))
            except SampleSkipped as skip:
                self.unreadable[skip.reason] += 1
        if loaded:
            yield torch.stack([image for image, _ in loaded]), [target for _, target in loaded]
