"""The images and texts on which models are tried before they are used: the same everywhere, and like what jobs hold.

Shapes: N images, C = 3 channels, S = `image_size` pixels.
"""

import torch
from torch.nn import functional as F

from dr_pipeline.networks.images import ImageSpec

TEXTS = (
    "a photo of a dog",
    "",
    "IMG_2041.JPG",
    "two small blue squares left of a large striped circle, seen from above on a wooden table in the evening",
    "Ein großes Gemälde 🐶 大きな犬",
    "50% off – free shipping on all orders of running shoes",
    "the harbour of the old town",
    "red car",
)
NUM_IMAGES = 16
_CELLS = (2, 4, 8, 16)
"""Cells a side of the coarse noise that images are made of."""


def probe_images(spec: ImageSpec) -> torch.Tensor:
    """Normalised images [N, C, S, S] of smooth colours, from coarse to fine, with a little noise."""
    mean, std = (torch.tensor(triple).view(3, 1, 1) for triple in (spec.mean, spec.std))
    return (_pixels(spec.image_size) - mean) / std


def probe_squares(image_size: int) -> torch.Tensor:
    """The same images as uint8 pixels [N, S, S, C]."""
    return (255 * _pixels(image_size)).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _pixels(image_size: int) -> torch.Tensor:
    generator, parts = torch.Generator().manual_seed(0), []
    for cells in _CELLS:
        coarse = torch.rand(NUM_IMAGES // len(_CELLS), 3, cells, cells, generator=generator)
        parts.append(F.interpolate(coarse, size=(image_size, image_size), mode="bicubic"))
    smooth_NCSS = torch.cat(parts)
    return (smooth_NCSS + 0.05 * torch.randn(smooth_NCSS.shape, generator=generator)).clamp(0, 1)
