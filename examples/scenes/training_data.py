"""The training set of the demo's models: scenes rendered once into one array on disk, and random batches of them.

N scenes, C captions each, B scenes a batch, L tokens a caption, A attributes.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from evaluate_models import Preprocess
from PIL import Image

from dr_pipeline.demo.grammar import COLOURS, SHAPES, TEXTURES, short_captions, true_captions
from dr_pipeline.demo.scenes import TEACHER_SEED, draw_scene, draw_truth
from dr_pipeline.demo.tokenizer import WordTokenizer
from dr_pipeline.views.seeding import Stream

SIDE = 128
CHUNK = 500
ATTRIBUTES = {"colour": COLOURS, "shape": SHAPES, "texture": TEXTURES}
"""What the image towers learn to tell of a scene's main object first."""


def render_scenes(folder: Path, count: int, processes: int = 2) -> None:
    """Render scenes 0 … count - 1 of TEACHER_SEED, squashed to SIDE × SIDE px, into images.npy and aspects.npy."""
    images_NHWC = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, SIDE, SIDE, 3))
    aspects: list[float] = []
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for chunk, (images, chunk_aspects) in zip(chunks, pool.map(_render_chunk, chunks), strict=True):
            images_NHWC[chunk.start : chunk.stop] = images
            aspects += chunk_aspects
    images_NHWC.flush()
    np.save(folder / "aspects.npy", np.asarray(aspects))


def _render_chunk(indices: range) -> tuple[np.ndarray, list[float]]:
    scenes = [draw_scene(TEACHER_SEED, index) for index in indices]
    images = [np.asarray(scene.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for scene in scenes]
    return np.stack(images), [scene.image.width / scene.image.height for scene in scenes]


class TrainingData:
    """Random batches of the scenes in `folder`; every scene comes once before any comes again.

    `smallest_crop` is the least part of the image's area that a crop keeps.
    """

    def __init__(
        self,
        folder: Path,
        preprocess: Preprocess,
        tokenizer: WordTokenizer,
        batch_size: int,
        smallest_crop: float,
        seed: int,
    ):
        self._images_NHWC = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        self._aspects_N = np.load(folder / "aspects.npy", allow_pickle=False)
        truths = [draw_truth(Stream(TEACHER_SEED, "scene", index)) for index in range(len(self._images_NHWC))]
        self._tokens_NCL = torch.stack([tokenizer([*true_captions(t), *short_captions(t)]) for t in truths])
        attributes = [[options.index(getattr(t.main, name)) for name, options in ATTRIBUTES.items()] for t in truths]
        self.attributes_NA = torch.tensor(attributes)
        self._preprocess, self._batch_size, self._smallest_crop = preprocess, batch_size, smallest_crop
        self._rng = np.random.default_rng(seed)
        self._order: list[int] = []

    def draw_images(self) -> tuple[torch.Tensor, np.ndarray]:
        """Normalised crops [B, 3, size, size] of the next scenes and their indices [B].

        Half of the crops are the centre square; contrast and brightness of each are changed a little.
        """
        while len(self._order) < self._batch_size:
            self._order += self._rng.permutation(len(self._images_NHWC)).tolist()
        indices_B, self._order = np.array(self._order[: self._batch_size]), self._order[self._batch_size :]
        boxes = [crop_box(self._aspects_N[index], self._smallest_crop, self._rng) for index in indices_B]
        size, crops = (self._preprocess.size,) * 2, []
        for index, box in zip(indices_B, boxes, strict=True):
            crops.append(Image.fromarray(self._images_NHWC[index]).resize(size, Image.Resampling.BICUBIC, box))
        images_BCHW = self._preprocess.normalise(np.stack([np.asarray(crop) for crop in crops]))
        contrast_B = torch.from_numpy(self._rng.uniform(0.8, 1.25, self._batch_size)).float()
        brightness_B = torch.from_numpy(self._rng.uniform(-0.25, 0.25, self._batch_size)).float()
        images_BCHW = images_BCHW * contrast_B.view(-1, 1, 1, 1) + brightness_B.view(-1, 1, 1, 1)
        return images_BCHW.contiguous(memory_format=torch.channels_last), indices_B

    def draw_captions(self, indices_B: np.ndarray) -> torch.Tensor:
        """The tokens [B, L] of one true caption for each of these scenes."""
        return self._tokens_NCL[indices_B, self._rng.integers(self._tokens_NCL.shape[1], size=len(indices_B))]


def crop_box(aspect: float, smallest: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a crop in an image of this aspect ratio that is squashed to SIDE × SIDE px.

    Half of the crops are the centre square; the others' areas are `smallest`–1 of the image's, their ratios 3/4–4/3.
    """
    if rng.random() < 1 / 2:
        width, height = min(1.0, 1 / aspect), min(1.0, aspect)
        left, top = (1 - width) / 2, (1 - height) / 2
    else:
        area, ratio = rng.uniform(smallest, 1), (4 / 3) ** rng.uniform(-1, 1)
        width, height = min(1.0, (area * ratio / aspect) ** 0.5), min(1.0, (area * aspect / ratio) ** 0.5)
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return SIDE * left, SIDE * top, SIDE * (left + width), SIDE * (top + height)
