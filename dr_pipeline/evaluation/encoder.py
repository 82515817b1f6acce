"""What is evaluated: anything that embeds images and texts in one space.

Shapes: B images, T texts, C = 3 channels, H = W = `image.image_size` pixels, D embedding columns.
"""

from typing import Protocol

import torch

from dr_pipeline.networks.device import Precision, autocast
from dr_pipeline.networks.images import ImageSpec
from dr_pipeline.networks.network import Network, embed_images, embed_texts


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
