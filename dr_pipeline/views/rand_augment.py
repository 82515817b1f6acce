"""RandAugment's operations on 8-bit RGB: pixels of torchvision's PIL transforms, to the last bit.

With nearest interpolation, and black where an operation uncovers the border.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from dr_pipeline.records import Op
from dr_pipeline.views import params

_BLACK = (0, 0, 0)


def apply(image: Image.Image, ops: Sequence[Op]) -> Image.Image:
    """The operations one after the other.

    Raises ValueError, TypeError or ArithmeticError where one cannot take its magnitude.
    """
    for op, magnitude in ops:
        image = _OPS[op](image, magnitude)
    return image


def _affine(image: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    """`matrix` maps an output pixel to the input pixel that it is taken from."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=_BLACK)


def slope(magnitude: float) -> float:
    # By way of degrees, as torchvision does: the rounding decides which pixel is nearest.
    return math.tan(math.radians(math.degrees(math.atan(magnitude))))


def _shear_x(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, (1.0, slope(magnitude), 0.0, 0.0, 1.0, 0.0))


def _shear_y(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, slope(magnitude), 1.0, 0.0))


def _translate_x(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, -float(int(magnitude)), 0.0, 1.0, 0.0))


def _translate_y(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, -float(int(magnitude))))


def _rotate(image: Image.Image, magnitude: float) -> Image.Image:
    return image.rotate(magnitude, Image.Resampling.NEAREST, fillcolor=_BLACK)


def _sharpness(image: Image.Image, magnitude: float) -> Image.Image:
    smooth_HWC = _smooth(np.asarray(image))
    return Image.blend(Image.fromarray(smooth_HWC), image, 1.0 + magnitude)


def _smooth(pixels_HWC: np.ndarray) -> np.ndarray:
    """ImageFilter.SMOOTH in a fifth of its time: the mean of 3 × 3 pixels in which the middle counts five times.

    In whole numbers, which cannot tie: a thirteenth is never a half. The border stays, as Pillow leaves it.
    """
    wide = pixels_HWC.astype(np.uint16)
    columns = wide[:-2] + wide[1:-1] + wide[2:]
    sums = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:] + 4 * wide[1:-1, 1:-1]
    smooth_HWC = pixels_HWC.copy()
    smooth_HWC[1:-1, 1:-1] = (sums + 6) // 13
    return smooth_HWC


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
    params.SHARPNESS: _sharpness,
    params.POSTERIZE: lambda image, magnitude: ImageOps.posterize(image, int(magnitude)),
    params.SOLARIZE: lambda image, magnitude: ImageOps.solarize(image, magnitude),  # type: ignore[arg-type]  # 178.5 is a threshold too
    params.AUTO_CONTRAST: lambda image, _: ImageOps.autocontrast(image),
    params.EQUALIZE: lambda image, _: ImageOps.equalize(image),
}
