"""Crops and resizes images to Pillow's pixels, which other training code has too.

They depend on Pillow's major version, which a dataset records: 13 resizes the rows of a tall crop first, 12 never does,
and the order matters where a pass clips a value.
"""

from typing import Any

import PIL
from PIL import Image

from dr_pipeline.config.augmentation import Interpolation

Box = tuple[int, int, int, int]
"""top, left, height, width in pixels of an image. What lies beyond the image is black."""

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def resize_box(image: Image.Image, box: Box, size: int, interpolation: Interpolation) -> Image.Image:
    """A box of an RGB image, resized to `size` × `size` pixels."""
    top, left, height, width = box
    # resize(box=…) would be one call, but reads pixels beyond the box.
    cropped = image.crop((left, top, left + width, top + height))
    return cropped.resize((size, size), _FILTERS[interpolation])


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
