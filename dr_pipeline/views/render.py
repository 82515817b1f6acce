"""Apply a view's parameters to an image: the same code for the generator and for the student.

Pixels are those of torchvision's PIL transforms: crops, one resize, then what changes 8-bit values.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.resample import crops_of
from dr_pipeline.views.transforms import View

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
"""What Pillow may decode, whatever a file is called: of others it would run programs (EPS), or guess."""


def decode(image_bytes: bytes, max_pixels: int) -> Image.Image:
    """Image bytes → RGB of the stored size (EXIF rotation is not applied: crops are pixels of the stored image).

    Raises SampleSkipped when the bytes are no whole image or have more than `max_pixels`.
    """
    if not image_bytes:
        raise SampleSkipped("empty image")
    try:
        image = Image.open(io.BytesIO(image_bytes), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise SampleSkipped("image too large", f"{image.width} × {image.height} px, allowed {max_pixels}")
        # RGBA first: a palette with transparency, or grey with alpha, keeps its colours only on this way.
        return image.convert("RGB") if image.mode == "RGB" else image.convert("RGBA").convert("RGB")
    except (SampleSkipped, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise SampleSkipped("image too large", str(error)) from error
    except UnidentifiedImageError as error:
        raise SampleSkipped("corrupt image", f"its bytes are none of {', '.join(FORMATS)}") from error
    except Exception as error:  # every decoder has errors of its own, and lets others through
        raise SampleSkipped("corrupt image", str(error) or type(error).__name__) from error


def render(image: Image.Image, views: Sequence[View], recipe: Recipe, size: int | None = None) -> np.ndarray:
    """RGB image and views → uint8 pixels [views, size, size, 3]; the size is the recipe's where none is given.

    Raises ValueError, TypeError or ArithmeticError where a transform cannot take its parameters.
    """
    resized = crops_of(image, size or recipe.size, recipe.interpolation, recipe.resampler)
    return np.stack([_pixels(resized(recipe.box(view, *image.size)), view, recipe) for view in views])


def _pixels(resized: Image.Image, view: View, recipe: Recipe) -> np.ndarray:
    drawn = dict(view)
    for transform in recipe.pixel_transforms:
        if transform.name in drawn:
            resized = transform.apply(resized, drawn[transform.name])
    return np.asarray(resized)


def render_center(image: Image.Image, size: int) -> np.ndarray:
    """The central square of an image, for a captioner → uint8 pixels [size, size, 3].

    Cut before it is resized: the whole of an image of 20,000 × 1 px would be gigabytes at the captioner's size.
    """
    side = min(image.width, image.height)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))
