"""What is evaluated: anything that embeds images and texts in one space, and its embeddings of a set as unit vectors.

Shapes: B images, T texts, C = 3 channels, H = W = `image.image_size` pixels, D embedding columns, K classes, P prompts
of some classes.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F

from dr_pipeline.config.evaluation import Engine
from dr_pipeline.evaluation.data import EvaluationImage, LabelledSet, Target
from dr_pipeline.evaluation.images import ImageLoader
from dr_pipeline.networks.device import Precision, autocast
from dr_pipeline.networks.images import ImageSpec
from dr_pipeline.networks.network import Network, embed_images, embed_texts
from dr_pipeline.networks.tokenizer import truncate_text


class DualEncoder(Protocol):
    """A model of images and texts, ready to compute: placed, in eval mode, in its precision."""

    image: ImageSpec

    def embed_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalised float images in host memory → embeddings [B, D], of any length."""
        ...

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """T texts → embeddings [T, D], of any length."""
        ...


class NetworkEncoder:
    """A network of open_clip in eval mode, where its weights lie."""

    def __init__(self, network: Network, precision: Precision):
        self.image = network.image
        self._module, self._tokenizer, self._precision = network.module, network.tokenizer, precision
        self._device = next(network.module.parameters()).device

    def embed_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalised float images → embeddings [B, D], not scaled."""
        with torch.no_grad(), autocast(self._device, self._precision):
            return embed_images(self._module, images_BCHW.to(self._device))

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """T texts → embeddings [T, D], not scaled."""
        with torch.no_grad(), autocast(self._device, self._precision):
            return embed_texts(self._module, self._tokenizer(texts).to(self._device))


class UnitVectors:
    """Embeds by a model, batch by batch."""

    def __init__(self, encoder: DualEncoder, engine: Engine):
        self._encoder, self._batch_size = encoder, engine.batch_size

    def of_images(
        self, items: Iterator[EvaluationImage[Target]], loader: ImageLoader
    ) -> Iterator[tuple[torch.Tensor, list[Target]]]:
        """Images [B, D], with their targets; those that cannot be read are left out."""
        for images_BCHW, targets in loader.batches(items):
            yield F.normalize(self._encoder.embed_images(images_BCHW).float(), dim=-1), targets

    def of_texts(self, texts: list[str]) -> torch.Tensor:
        """Texts [T, D], of which there is one at least."""
        parts = []
        for start in range(0, len(texts), self._batch_size):
            batch = [truncate_text(text) for text in texts[start : start + self._batch_size]]
            parts.append(F.normalize(self._encoder.embed_texts(batch).float(), dim=-1))
        return torch.cat(parts)

    def of_classes(self, data: LabelledSet) -> torch.Tensor:
        """Classes [K, D]: of each the mean of its prompts' unit vectors, scaled (CLIP, section 3.1.4)."""
        num_prompts, means = len(data.templates), []
        classes_at_once = max(1, self._batch_size // num_prompts)
        for start in range(0, len(data.class_names), classes_at_once):
            names = data.class_names[start : start + classes_at_once]
            prompts_PD = self.of_texts([template(name) for name in names for template in data.templates])
            means.append(prompts_PD.view(len(names), num_prompts, -1).mean(dim=1))
        return F.normalize(torch.cat(means), dim=-1)
