"""Renders views of an image from their parameters; the generator and the student share this code.

Pixels are those of torchvision on Pillow images: crops, one resize, then transforms of 8-bit pixels. They depend on
Pillow's major version, which a dataset records: 13 resizes the rows of a tall crop first, 12 never does, and the order
matters where a pass clips a value.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from dr_pipeline.config.augmentation import Interpolation
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.mixing import pair_of
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.transforms import Box, View

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
"""The formats that Pillow may decode, whatever a file's name; for others it would run programs (EPS), or guess."""
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def decode(image_bytes: bytes, max_pixels: int) -> Image.Image:
    """Image bytes → RGB of the stored size. EXIF rotation is not applied: crops count pixels of the stored image.

    Raises SampleSkipped where the bytes are no whole image, or it has more than `max_pixels`.
    """
    if not image_bytes:
        raise SampleSkipped("empty image")
    try:
        image = Image.open(io.BytesIO(image_bytes), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise SampleSkipped("image too large", f"{image.width} × {image.height} px, allowed {max_pixels}")
        # By way of RGBA, which alone keeps the colours of a palette with transparency, and of grey with alpha.
        return image.convert("RGB") if image.mode == "RGB" else image.convert("RGBA").convert("RGB")
    except (SampleSkipped, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise SampleSkipped("image too large", str(error)) from error
    except UnidentifiedImageError as error:
        raise SampleSkipped("corrupt image", f"its bytes are none of {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise many kinds
        raise SampleSkipped("corrupt image", str(error) or type(error).__name__) from error


def size_of(image_bytes: bytes) -> tuple[int, int]:
    """Width and height of an image that `decode` takes; its pixels are not decoded."""
    return Image.open(io.BytesIO(image_bytes), formats=FORMATS).size


def pixels_of(image: Image.Image) -> np.ndarray:
    """RGB image → its pixels, uint8 [height, width, 3], not to be written to.

    Where Pillow holds the image in one piece, as it does up to 16 MB, it is not copied, for that takes a millisecond of
    the interpreter's lock; the rows of pixels then have gaps.
    """
    try:
        values = pa.array(image).flatten().to_numpy(zero_copy_only=True)
    except ValueError:
        return np.asarray(image)
    return values.reshape(image.height, image.width, -1)[..., :3]  # Pillow pads RGB to four bytes


_NO_PAIRS: Mapping[int, Image.Image] = {}


def render(
    image: Image.Image,
    views: Sequence[View],
    recipe: Recipe,
    size: int | None = None,
    pairs: Mapping[int, Image.Image] = _NO_PAIRS,
) -> np.ndarray:
    """RGB image and views → uint8 pixels [views, size, size, 3]; `size` defaults to the recipe's.

    `pairs`: the images that views are mixed with, by the index that `mixing.pair_of(view)` names. A stored entry's
    pixels are `render(image, [recipe.decode(entry)], recipe, pairs={id2: other})`. Raises ValueError, TypeError or
    ArithmeticError where a transform cannot take its parameters, ValueError also where a pair is not given.
    """
    size, rendered = size or recipe.size, []
    for view in views:
        pixels_HWC, pair = _render_one(image, view, recipe, size), pair_of(view)
        if pair is not None:
            if pair.id2 not in pairs:
                raise ValueError(f"the view is mixed with one of image {pair.id2} of its shard, which is not there")
            other_HWC, drawn = _render_one(pairs[pair.id2], pair.view, recipe, size), dict(view)
            for mixing in recipe.mixings:
                if mixing.name in drawn:
                    pixels_HWC = mixing.apply(pixels_HWC, other_HWC, drawn[mixing.name])
        rendered.append(pixels_HWC)
    return np.stack(rendered)


def _render_one(image: Image.Image, view: View, recipe: Recipe, size: int) -> np.ndarray:
    drawn = dict(view)
    pixels = resize_box(image, recipe.box(view, *image.size), size, recipe.interpolation)
    for transform in recipe.pixel_transforms:
        if transform.name in drawn:
            pixels = transform.apply(pixels, drawn[transform.name])
    return np.asarray(pixels)


def resize_box(image: Image.Image, box: Box, size: int, interpolation: Interpolation) -> Image.Image:
    """A box of an RGB image, resized to `size` × `size` pixels."""
    top, left, height, width = box
    # resize(box=…) would be one call, but reads pixels beyond the box.
    cropped = image.crop((left, top, left + width, top + height))
    return cropped.resize((size, size), _FILTERS[interpolation])


def render_center(image: Image.Image, size: int) -> np.ndarray:
    """The central square of an image, for a captioner → uint8 pixels [size, size, 3].

    It is cropped before it is resized: the whole of a 20,000 × 1 px image would take gigabytes at that scale.
    """
    side = min(image.width, image.height)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))


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
