"""Crops and resizes images, by one of two resamplers, which differ in single grey levels; a dataset records which.

pillow: the pixels of other training code. They depend on Pillow's major version, which a dataset records too: 13
        resizes the rows of a tall crop first, 12 never does, and the order matters where a pass clips a value.
fast:   torch's antialiased resize of uint8 pixels, in 16-bit integers; it takes a sixth of the time.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from PIL import Image

from dr_pipeline.config.augmentation import Interpolation, Resampler

if TYPE_CHECKING:
    import torch

Box = tuple[int, int, int, int]
"""top, left, height, width in pixels of an image. What lies beyond the image is black."""

_PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def other_pillow(config: dict[str, Any]) -> str | None:
    """A sentence where a config.json records another major version of Pillow than the one here, else None."""
    stored = str((config.get("dr_pipeline") or {}).get("pillow", PIL.__version__))
    major = stored.partition(".")[0]
    if major == PIL.__version__.partition(".")[0]:
        return None
    return (
        f"its views are those of Pillow {stored}, and here is Pillow {PIL.__version__}, which makes other pixels of "
        f"the same parameters: pip install 'pillow=={major}.*'"
    )


def crops_of(
    image: Image.Image, size: int, interpolation: Interpolation, resampler: Resampler
) -> Callable[[Box], Image.Image]:
    """A function from boxes of an RGB image to RGB images of `size` × `size` pixels."""
    make = {"pillow": _pillow, "fast": _fast}[resampler]
    return make(image, size, interpolation)


def _pillow(image: Image.Image, size: int, interpolation: Interpolation) -> Callable[[Box], Image.Image]:
    def resized(box: Box) -> Image.Image:
        # resize(box=…) would be one call, but reads pixels beyond the box.
        return _cut(image, box).resize((size, size), _PILLOW[interpolation])

    return resized


def _fast(image: Image.Image, size: int, interpolation: Interpolation) -> Callable[[Box], Image.Image]:
    pixels_HWC = np.asarray(image)  # once for all views

    def resized(box: Box) -> Image.Image:
        import torch

        top, left, height, width = box
        if min(top, left) < 0 or top + height > image.height or left + width > image.width:
            box_HWC = np.array(_cut(image, box))
        else:
            # NumPy copies on one thread; torch would start several for this size.
            box_HWC = pixels_HWC[top : top + height, left : left + width].copy()
        view_HWC = torch.from_numpy(box_HWC)
        if _rows_first(height, width, size):
            view_HWC = _interpolate(view_HWC, size, width, interpolation)
        return Image.fromarray(_interpolate(view_HWC, size, size, interpolation).numpy())

    return resized


def _cut(image: Image.Image, box: Box) -> Image.Image:
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height))


def _rows_first(height: int, width: int, size: int) -> bool:
    """Whether Pillow 13 resizes a crop's rows before its columns; the order matters where a pass clips a value."""
    return height > size and 2 * width < height + size


def _interpolate(pixels_HWC: "torch.Tensor", height: int, width: int, interpolation: Interpolation) -> "torch.Tensor":
    """Resize columns first. Channels stay last, which torch's uint8 kernel takes without a copy."""
    from torch.nn import functional as F

    if tuple(pixels_HWC.shape[:2]) == (height, width):
        return pixels_HWC
    images_NCHW = pixels_HWC[None].permute(0, 3, 1, 2)
    return F.interpolate(images_NCHW, (height, width), mode=interpolation, antialias=True).permute(0, 2, 3, 1)[0]
