"""RandAugment's operations on 8-bit RGB images; pixels are those of torchvision on Pillow images, to the last bit.

Interpolation is nearest, and pixels from beyond the border are black.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from dr_pipeline.config.augmentation import OpName, RandAugmentSettings
from dr_pipeline.views.seeding import Stream

Op = tuple[int, float]
"""(index of `config.augmentation.OpName`, magnitude)."""
Matrix = tuple[float, float, float, float, float, float]
"""Source x and y of output (x, y): (a·x + b·y + c, d·x + e·y + f)."""

IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS = range(10)
POSTERIZE, SOLARIZE, AUTO_CONTRAST, EQUALIZE = range(10, 14)
NUM_OPS = 14

_NAMES = get_args(OpName)
_LARGEST_MAGNITUDE = {
    SHEAR_X: 0.3,
    SHEAR_Y: 0.3,
    ROTATE: 30.0,
    BRIGHTNESS: 0.9,
    COLOR: 0.9,
    CONTRAST: 0.9,
    SHARPNESS: 0.9,
}
_SIGNED = {SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS}
_BLACK = (0, 0, 0)


def draw_op(settings: RandAugmentSettings, side: int, stream: Stream) -> Op:
    """One operation for a view of `side` pixels."""
    if settings.magnitudes is not None:
        ranges = sorted((_NAMES.index(name), *given) for name, given in settings.magnitudes.items())
        op, low, high = ranges[stream.integer(len(ranges))]
        return op, stream.uniform(low, high)
    op = stream.integer(NUM_OPS)
    magnitude = op_magnitude(op, settings, side)
    if op in _SIGNED and stream.integer(2):
        magnitude = -magnitude
    return op, magnitude


def decode_op(entry: Any) -> Op:
    """An operation of any writer. Raises ValueError."""
    if not (isinstance(entry, list) and len(entry) == 2 and type(entry[0]) is int and 0 <= entry[0] < NUM_OPS):
        raise ValueError(f"a RandAugment operation is [index below {NUM_OPS}, magnitude], found {entry!r}")
    op, magnitude = entry
    is_number = isinstance(magnitude, int | float) and not isinstance(magnitude, bool)
    if not is_number or not abs(magnitude) <= sys.float_info.max:  # false for NaN too
        raise ValueError(f"a RandAugment magnitude is a finite number, found {magnitude!r}")
    return op, float(magnitude)


def op_magnitude(op: int, settings: RandAugmentSettings, side: int) -> float:
    """torchvision's magnitude of an operation on a view of `side` pixels, a float32 value."""
    last = settings.num_magnitude_bins - 1
    if op in (TRANSLATE_X, TRANSLATE_Y):
        return _bin(0.0, 150.0 / 331.0 * side, settings)
    if op == POSTERIZE:
        return float(8 - round(settings.magnitude / (last / 4))) if last else 8.0
    if op == SOLARIZE:
        return _bin(255.0, 0.0, settings)
    if op in _LARGEST_MAGNITUDE:
        return _bin(0.0, _LARGEST_MAGNITUDE[op], settings)
    return 0.0


def _bin(start: float, end: float, settings: RandAugmentSettings) -> float:
    """Element `magnitude` of torch.linspace(start, end, num_magnitude_bins), a float32 value.

    torch counts from the nearer end, and fuses multiplication and addition, so that only the sum is rounded.
    """
    steps, index = settings.num_magnitude_bins, settings.magnitude
    first, last = float(np.float32(start)), float(np.float32(end))
    if steps == 1:
        return first
    step = float((np.float32(last) - np.float32(first)) / np.float32(steps - 1))
    from_nearer_end = first + step * index if index < steps // 2 else last - step * (steps - 1 - index)
    return float(np.float32(from_nearer_end))


def apply(image: Image.Image, ops: Sequence[Op]) -> Image.Image:
    """Apply the operations in order.

    Raises ValueError, TypeError or ArithmeticError where one cannot take its magnitude.
    """
    for op, magnitude in ops:
        if op in MATRICES:
            matrix, nearest = MATRICES[op](magnitude), Image.Resampling.NEAREST
            image = image.transform(image.size, Image.Transform.AFFINE, matrix, nearest, fillcolor=_BLACK)
        else:
            image = _OPS[op](image, magnitude)
    return image


def _slope(magnitude: float) -> float:
    # Through degrees, as torchvision: the rounding decides which pixel is nearest.
    return math.tan(math.radians(math.degrees(math.atan(magnitude))))


MATRICES: dict[int, Callable[[float], Matrix]] = {
    SHEAR_X: lambda magnitude: (1.0, _slope(magnitude), 0.0, 0.0, 1.0, 0.0),
    SHEAR_Y: lambda magnitude: (1.0, 0.0, 0.0, _slope(magnitude), 1.0, 0.0),
    TRANSLATE_X: lambda magnitude: (1.0, 0.0, -float(int(magnitude)), 0.0, 1.0, 0.0),
    TRANSLATE_Y: lambda magnitude: (1.0, 0.0, 0.0, 0.0, 1.0, -float(int(magnitude))),
}
"""Operations that move pixels, by their magnitude; not the rotation, whose matrix depends on the view's size."""


def _sharpness(image: Image.Image, magnitude: float) -> Image.Image:
    """ImageEnhance.Sharpness in a fifth of its time: the mean of 3 × 3 pixels, of which the middle counts five times.

    Integers round as Pillow does, since a thirteenth is never a half. The border is unchanged, as in Pillow.
    """
    pixels_HWC = np.asarray(image)
    wide = pixels_HWC.astype(np.uint16)
    columns = wide[:-2] + wide[1:-1] + wide[2:]
    sums = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:] + 4 * wide[1:-1, 1:-1]
    smooth_HWC = pixels_HWC.copy()
    smooth_HWC[1:-1, 1:-1] = (sums + 6) // 13
    return Image.blend(Image.fromarray(smooth_HWC), image, 1.0 + magnitude)


_OPS: dict[int, Callable[[Image.Image, float], Image.Image]] = {
    IDENTITY: lambda image, _: image,
    ROTATE: lambda image, degrees: image.rotate(degrees, Image.Resampling.NEAREST, fillcolor=_BLACK),
    BRIGHTNESS: lambda image, magnitude: ImageEnhance.Brightness(image).enhance(1.0 + magnitude),
    COLOR: lambda image, magnitude: ImageEnhance.Color(image).enhance(1.0 + magnitude),
    CONTRAST: lambda image, magnitude: ImageEnhance.Contrast(image).enhance(1.0 + magnitude),
    SHARPNESS: _sharpness,
    POSTERIZE: lambda image, magnitude: ImageOps.posterize(image, int(magnitude)),
    SOLARIZE: lambda image, magnitude: ImageOps.solarize(image, magnitude),  # type: ignore[arg-type]  # 178.5 is a threshold too
    AUTO_CONTRAST: lambda image, _: ImageOps.autocontrast(image),
    EQUALIZE: lambda image, _: ImageOps.equalize(image),
}
