"""Apply a view's parameters to an image: the same code for the generator and for the student.

Pixels are those of torchvision's PIL transforms: crop, resize, then the RandAugment operations on 8-bit values, with
nearest interpolation and black where an operation uncovers the border.
"""

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps, UnidentifiedImageError

from dr_pipeline.errors import SampleSkipped
from dr_pipeline.records import View
from dr_pipeline.views import params

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_BLACK = (0, 0, 0)


def decode(image_bytes: bytes, max_pixels: int) -> Image.Image:
    """Image bytes → RGB of the stored size (EXIF rotation is not applied: crops are pixels of the stored image).

    Raises SampleSkipped when the bytes are no whole image or have more than `max_pixels`.
    """
    if not image_bytes:
        raise SampleSkipped("empty image")
    try:
        image = Image.open(io.BytesIO(image_bytes))
        if image.width * image.height > max_pixels:
            raise SampleSkipped("image too large", f"{image.width} × {image.height} px, allowed {max_pixels}")
        # RGBA first: a palette with transparency, or grey with alpha, keeps its colours only on this way.
        return image.convert("RGB") if image.mode == "RGB" else image.convert("RGBA").convert("RGB")
    except Image.DecompressionBombError as error:
        raise SampleSkipped("image too large", str(error)) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        raise SampleSkipped("corrupt image", str(error)) from error


def render(image: Image.Image, views: Sequence[View], size: int, interpolation: str = "bicubic") -> np.ndarray:
    """RGB image and views → uint8 pixels [views, size, size, 3]."""
    return np.stack([np.asarray(_render_view(image, view, size, interpolation)) for view in views])


def render_center(image: Image.Image, size: int) -> np.ndarray:
    """The central square of an image, for a captioner → uint8 pixels [size, size, 3].

    Cut before it is resized: the whole of an image of 20,000 × 1 px would be gigabytes at the captioner's size.
    """
    side = min(image.width, image.height)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))


def _render_view(image: Image.Image, view: View, size: int, interpolation: str) -> Image.Image:
    top, left, height, width = view.crop
    crop = image.crop((left, top, left + width, top + height))
    pixels = crop.resize((size, size), _RESAMPLING[interpolation])
    for op, magnitude in view.ops:
        pixels = _OPS[op](pixels, magnitude)
    return pixels


def _affine(image: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    """`matrix` maps an output pixel to the input pixel that it is taken from."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=_BLACK)


def _slope(magnitude: float) -> float:
    # By way of degrees, as torchvision does: the rounding decides which pixel is nearest.
    return math.tan(math.radians(math.degrees(math.atan(magnitude))))


def _shear_x(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, (1.0, _slope(magnitude), 0.0, 0.0, 1.0, 0.0))


def _shear_y(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, _slope(magnitude), 1.0, 0.0))


def _translate_x(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, -float(int(magnitude)), 0.0, 1.0, 0.0))


def _translate_y(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, -float(int(magnitude))))


def _rotate(image: Image.Image, magnitude: float) -> Image.Image:
    return image.rotate(magnitude, Image.Resampling.NEAREST, fillcolor=_BLACK)


_OPS: dict[int, Callable[[Image.Image, float], Image.Image]] = {
    params.IDENTITY: lambda image, _: image,
    params.SHEAR_X: _shear_x,
    params.SHEAR_Y: _shear_y,
    params.TRANSLATE_X: _translate_x,
    params.TRANSLATE_Y: _translate_y,
    params.ROTATE: _rotate,
    params.BRIGHTNESS: lambda image, magnitude: ImageEnhance.Brightness(image).enhance(1.0 + magnitude),
    params.COLOR: lambda image, magnitude: ImageEnhance.Color(image).enhance(1.0 + magnitude),
    params.CONTRAST: lambda image, magnitude: ImageEnhance.Contrast(image).enhance(1.0 + magnitude),
    params.SHARPNESS: lambda image, magnitude: ImageEnhance.Sharpness(image).enhance(1.0 + magnitude),
    params.POSTERIZE: lambda image, magnitude: ImageOps.posterize(image, int(magnitude)),
    params.SOLARIZE: lambda image, magnitude: ImageOps.solarize(image, magnitude),  # type: ignore[arg-type]  # 178.5 is a threshold too
    params.AUTO_CONTRAST: lambda image, _: ImageOps.autocontrast(image),
    params.EQUALIZE: lambda image, _: ImageOps.equalize(image),
}
