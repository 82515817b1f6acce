"""Draw a view's parameters, and code them as the contract's `param_aug` lists. Pure: no pixels here.

The distributions are torchvision's RandomResizedCrop and RandAugment; the numbers come from a counter-based stream.
"""

import math
import sys
from typing import Any

import numpy as np

from dr_pipeline.config import Augmentation, RandAugment, RandomResizedCrop, ViewRecipe
from dr_pipeline.records import Op, View
from dr_pipeline.views.seeding import Stream

IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS = range(10)
POSTERIZE, SOLARIZE, AUTO_CONTRAST, EQUALIZE = range(10, 14)
NUM_OPS = 14

_CROP_ATTEMPTS = 10
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


def draw(width: int, height: int, augmentation: Augmentation, seed: int, key: str) -> tuple[View, ...]:
    """The `num_views` views of the image `key`, of `width` × `height` pixels: a pure function of its arguments."""
    return tuple(
        draw_view(width, height, augmentation, Stream(seed, "view", key, index))
        for index in range(augmentation.num_views)
    )


def draw_view(width: int, height: int, recipe: ViewRecipe, stream: Stream) -> View:
    """One view of an image of `width` × `height` pixels, by the stream's next numbers."""
    crop = _draw_crop(width, height, recipe.random_resized_crop, stream)
    if recipe.rand_augment is None:
        return View(crop, ())
    side = recipe.random_resized_crop.size
    ops = tuple(_draw_op(recipe.rand_augment, side, stream) for _ in range(recipe.rand_augment.num_ops))
    return View(crop, ops)


def encode(view: View, augmentation: Augmentation) -> list[Any]:
    """A view as the contract's list: `[[top, left, height, width], [[op, magnitude], …]]`."""
    if augmentation.rand_augment is None:
        return [list(view.crop)]
    return [list(view.crop), [list(op) for op in view.ops]]


def decode(entry: Any) -> View:
    """The inverse of `encode`, for shards of any writer. Raises ValueError on another recipe's entry."""
    if not isinstance(entry, list) or not 1 <= len(entry) <= 2:
        raise ValueError(f"a view is [crop] or [crop, ops], found {entry!r}")
    crop, ops = entry[0], entry[1] if len(entry) == 2 else []
    if not (isinstance(crop, list) and len(crop) == 4 and all(type(value) is int for value in crop)):
        raise ValueError(f"a crop is four integers [top, left, height, width], found {crop!r}")
    if not isinstance(ops, list | None):
        raise ValueError(f"RandAugment leaves a list of operations or null, found {ops!r}")
    return View(crop=(crop[0], crop[1], crop[2], crop[3]), ops=tuple(_decode_op(op) for op in ops or []))


def fits(view: View, width: int, height: int) -> bool:
    """Whether a view's crop has pixels and lies inside an image of this size."""
    top, left, crop_height, crop_width = view.crop
    inside = top >= 0 and left >= 0 and top + crop_height <= height and left + crop_width <= width
    return inside and crop_height >= 1 and crop_width >= 1


def _decode_op(op: Any) -> Op:
    if not (isinstance(op, list) and len(op) == 2 and type(op[0]) is int and 0 <= op[0] < NUM_OPS):
        raise ValueError(f"a RandAugment operation is [index below {NUM_OPS}, magnitude], found {op!r}")
    magnitude = op[1]
    number = isinstance(magnitude, int | float) and not isinstance(magnitude, bool)
    if not number or not abs(magnitude) <= sys.float_info.max:  # false for NaN too
        raise ValueError(f"a RandAugment magnitude is a finite number, found {magnitude!r}")
    return op[0], float(magnitude)


def _draw_crop(width: int, height: int, crop: RandomResizedCrop, stream: Stream) -> tuple[int, int, int, int]:
    """A crop of random area and aspect ratio; the largest central one when none of ten tries fits the image."""
    low, high = crop.ratio
    for _ in range(_CROP_ATTEMPTS):
        area = width * height * stream.uniform(*crop.scale)
        ratio = math.exp(stream.uniform(math.log(low), math.log(high)))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = stream.integer(height - crop_height + 1), stream.integer(width - crop_width + 1)
            return top, left, crop_height, crop_width
    ratio = min(max(width / height, low), high)
    crop_width = min(width, max(1, round(height * ratio)))
    crop_height = min(height, max(1, round(width / ratio)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _draw_op(recipe: RandAugment, side: int, stream: Stream) -> Op:
    op = stream.integer(NUM_OPS)
    magnitude = op_magnitude(op, recipe, side)
    if op in _SIGNED and stream.integer(2):
        magnitude = -magnitude
    return op, magnitude


def op_magnitude(op: int, recipe: RandAugment, side: int) -> float:
    """torchvision's magnitude of an operation on a view of `side` pixels: a float32 widened to double."""
    last = recipe.num_magnitude_bins - 1
    if op in (TRANSLATE_X, TRANSLATE_Y):
        return _bin(0.0, 150.0 / 331.0 * side, recipe)
    if op == POSTERIZE:
        return float(8 - round(recipe.magnitude / (last / 4))) if last else 8.0
    if op == SOLARIZE:
        return _bin(255.0, 0.0, recipe)
    if op in _LARGEST_MAGNITUDE:
        return _bin(0.0, _LARGEST_MAGNITUDE[op], recipe)
    return 0.0


def _bin(start: float, end: float, recipe: RandAugment) -> float:
    """Entry `magnitude` of torch.linspace(start, end, num_magnitude_bins): float32, counted from the nearer end.

    torch fuses the multiplication and the addition, so only the sum is rounded.
    """
    steps, index = recipe.num_magnitude_bins, recipe.magnitude
    first, last = float(np.float32(start)), float(np.float32(end))
    if steps == 1:
        return first
    step = float((np.float32(last) - np.float32(first)) / np.float32(steps - 1))
    from_nearer_end = first + step * index if index < steps // 2 else last - step * (steps - 1 - index)
    return float(np.float32(from_nearer_end))
