"""RandAugment's operations on all views at once, on the device; pixels equal `views.rand_augment`'s to the last bit.

An operation is one of a few kinds. A table maps each 8-bit value to another; it may depend on the view's histogram. An
affine operation takes each pixel from the nearest one of the source, by 16-bit fixed-point coordinates, or, where these
would overflow, by coordinates that are added up in float64. Color and sharpness blend a pixel with its grey or with its
smoothed neighbourhood, in float32.

Shapes: T operations in a row, N views, S pixels a side, W = 8 numbers of an operation (its kind, itself, six more).
"""

import math
import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from dr_pipeline.views import rand_augment as host
from dr_pipeline.views.device import block_size
from dr_pipeline.views.rand_augment import MATRICES, Matrix, Op

_TABLE, _AFFINE, _FAR, _COLOR, _SHARPNESS = map(tl.constexpr, range(5))
_BRIGHTNESS, _CONTRAST, _POSTERIZE = map(tl.constexpr, (host.BRIGHTNESS, host.CONTRAST, host.POSTERIZE))
_SOLARIZE, _AUTO_CONTRAST, _EQUALIZE = map(tl.constexpr, (host.SOLARIZE, host.AUTO_CONTRAST, host.EQUALIZE))
FROM_HISTOGRAM = (host.CONTRAST, host.AUTO_CONTRAST, host.EQUALIZE)
"""The operations that need a view's histogram."""
_BLENDS = {host.BRIGHTNESS: _TABLE, host.CONTRAST: _TABLE, host.COLOR: _COLOR, host.SHARPNESS: _SHARPNESS}
_IDENTITY_OP: Op = (host.IDENTITY, 0.0)
_LARGEST_COORDINATE = 32768.0  # of 16-bit fixed point


def plan_ops(ops_N: Sequence[Sequence[Op]], size: int) -> np.ndarray:
    """Each view's operations in order, as int64 [T, N, W]; views of fewer operations end with the identity.

    Raises ValueError where an operation cannot take its magnitude.
    """
    num_steps = max(map(len, ops_N), default=0)
    filled_NT = [(*ops, *[_IDENTITY_OP] * (num_steps - len(ops))) for ops in ops_N]
    numbers = [_numbers(*ops[step], size) for step in range(num_steps) for ops in filled_NT]
    return np.array(numbers, np.int64).reshape(num_steps, len(ops_N), 8)


@lru_cache(maxsize=4096)
def _numbers(op: int, magnitude: float, size: int) -> tuple[int, ...]:
    """The W numbers of an operation on views of `size` pixels."""
    if op in MATRICES or op == host.ROTATE:
        matrix = _rotation(magnitude, size) if op == host.ROTATE else MATRICES[op](magnitude)
        kind, *coordinates = _coordinates(matrix, size)
        return kind, op, *coordinates
    kind, number = _TABLE.value, 0
    if op in _BLENDS:
        kind, number = _BLENDS[op].value, _bits(1.0 + magnitude)
    elif op == host.POSTERIZE:
        if not 1 <= int(magnitude) <= 8:
            raise ValueError(f"posterize keeps 1 to 8 bits, found {magnitude}")
        number = 256 - 2 ** (8 - int(magnitude))
    elif op == host.SOLARIZE:
        number = min(max(math.ceil(magnitude), 0), 256)
    return kind, op, number, 0, 0, 0, 0, 0


def _bits(number: float) -> int:
    """The bits of a float64 as an integer."""
    return int.from_bytes(struct.pack("<d", number), "little", signed=True)


def _rotation(degrees: float, size: int) -> Matrix:
    """The matrix of a rotation around the centre, as Pillow's `Image.rotate` computes it."""
    quarters = {0.0: (1.0, 0.0), 90.0: (0.0, -1.0), 180.0: (-1.0, 0.0), 270.0: (0.0, 1.0)}
    if degrees % 360.0 in quarters:
        cos, sin = quarters[degrees % 360.0]
        return cos, sin, size * (cos < 0 or sin < 0), -sin, cos, size * (cos < 0 or sin > 0)
    radians = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(radians), 15), round(math.sin(radians), 15)
    minus_sin, centre = round(-math.sin(radians), 15), size / 2
    across = cos * -centre + sin * -centre + 0.0
    down = minus_sin * -centre + cos * -centre + 0.0
    return cos, sin, across + centre, minus_sin, cos, down + centre


def _coordinates(matrix: Matrix, size: int) -> tuple[int, ...]:
    """The kind, and the matrix for pixel centres: in 1/65536 px, or, where these overflow, the bits of float64."""
    a, b, c, d, e, f = matrix
    corners = [(x, y) for x in (0, size) for y in (0, size)]
    farthest = max(max(abs(x * a + y * b + c), abs(x * d + y * e + f)) for x, y in corners)
    centred = (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)
    if farthest >= _LARGEST_COORDINATE:
        return _FAR.value, *map(_bits, centred)
    return _AFFINE.value, *(math.floor(value * 65536.0 + 0.5) for value in centred)


def launch_op(views_NSSC: Tensor, numbers_NW: Tensor, from_histogram: bool) -> Tensor:
    """Apply one operation to each of the uint8 views. `from_histogram`: whether one of them needs a histogram."""
    num_views, size, device = *views_NSSC.shape[:2], views_NSSC.device
    block = block_size(size * size)
    grid = (triton.cdiv(size * size, block), num_views)
    counts_N4V = torch.zeros((num_views, 4, 256), dtype=torch.int32, device=device)
    if from_histogram:
        _count_kernel[grid](views_NSSC, counts_N4V, numbers_NW, size, block)
    tables_N3V = torch.empty((num_views, 3, 256), dtype=torch.uint8, device=device)
    applied_NSSC = torch.empty_like(views_NSSC)
    # Not fused: a multiply-add rounds once where Pillow rounds twice.
    _table_kernel[(num_views,)](counts_N4V, tables_N3V, numbers_NW, enable_fp_fusion=False)
    _apply_kernel[grid](views_NSSC, applied_NSSC, numbers_NW, tables_N3V, size, block, enable_fp_fusion=False)
    return applied_NSSC


@triton.jit
def _count_kernel(views_ptr, counts_ptr, numbers_ptr, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Histograms of red, green, blue and grey of one block of one view."""
    view = tl.program_id(1)
    op = tl.load(numbers_ptr + view * 8 + 1)
    if (op != _CONTRAST) & (op != _AUTO_CONTRAST) & (op != _EQUALIZE):
        return
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size * size
    places = views_ptr + (view.to(tl.int64) * size * size + pixel) * 3
    red = tl.load(places, inside, 0).to(tl.int32)
    green = tl.load(places + 1, inside, 0).to(tl.int32)
    blue = tl.load(places + 2, inside, 0).to(tl.int32)
    bins = tl.arange(0, 256)
    outside = BLOCK - tl.sum(inside.to(tl.int32))
    uncounted = tl.where(bins == 0, outside, 0)  # pixels outside were read as black
    counts = counts_ptr + view * 4 * 256 + bins
    tl.atomic_add(counts, tl.histogram(red, 256) - uncounted)
    tl.atomic_add(counts + 256, tl.histogram(green, 256) - uncounted)
    tl.atomic_add(counts + 512, tl.histogram(blue, 256) - uncounted)
    tl.atomic_add(counts + 768, tl.histogram(_grey(red, green, blue), 256) - uncounted)


@triton.jit
def _table_kernel(counts_ptr, tables_ptr, numbers_ptr):  # type: ignore[no-untyped-def]
    """Compute the tables of red, green and blue of one view's operation."""
    view = tl.program_id(0)
    kind = tl.load(numbers_ptr + view * 8)
    op = tl.load(numbers_ptr + view * 8 + 1)
    number = tl.load(numbers_ptr + view * 8 + 2)
    if kind != _TABLE:
        return
    value = tl.arange(0, 256)
    counts = counts_ptr + view * 4 * 256 + value
    tables = tables_ptr + view * 3 * 256 + value
    for channel in range(3):
        table = value
        if op == _POSTERIZE:
            table = value & number.to(tl.int32)
        elif op == _SOLARIZE:
            table = tl.where(value < number, value, 255 - value)
        elif op == _BRIGHTNESS:
            table = _blended(value * 0, value, _factor(number)).to(tl.int32)
        elif op == _CONTRAST:
            table = _contrast(tl.load(counts + 768), value, _factor(number))
        elif op == _AUTO_CONTRAST:
            table = _auto_contrast(tl.load(counts + channel * 256), value)
        elif op == _EQUALIZE:
            table = _equalize(tl.load(counts + channel * 256), value)
        tl.store(tables + channel * 256, table.to(tl.uint8))


@triton.jit
def _contrast(grey_counts, value, factor):  # type: ignore[no-untyped-def]
    """The table of a blend with the mean grey."""
    total = tl.sum(grey_counts.to(tl.int64) * value).to(tl.float64)
    mean = (total / tl.sum(grey_counts).to(tl.float64) + 0.5).to(tl.int32)
    return _blended(value * 0 + mean, value, factor).to(tl.int32)


@triton.jit
def _auto_contrast(counts, value):  # type: ignore[no-untyped-def]
    """The table that maps the least value to 0 and the largest to 255."""
    low = tl.min(tl.where(counts > 0, value, 255))
    high = tl.max(tl.where(counts > 0, value, 0))
    scale = 255.0 / tl.maximum(high - low, 1).to(tl.float64)
    stretched = (value.to(tl.float64) * scale + -low.to(tl.float64) * scale).to(tl.int32)
    return tl.where(high <= low, value, tl.minimum(tl.maximum(stretched, 0), 255))


@triton.jit
def _equalize(counts, value):  # type: ignore[no-untyped-def]
    """The table that maps each value to the share of pixels below it."""
    high = tl.max(tl.where(counts > 0, value, 0))
    step = (tl.sum(counts) - tl.sum(tl.where(value == high, counts, 0))) // 255
    below = step // 2 + tl.cumsum(counts, 0) - counts
    return tl.where(step == 0, value, tl.minimum(below // tl.maximum(step, 1), 255))


@triton.jit
def _apply_kernel(source_ptr, target_ptr, numbers_ptr, tables_ptr, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Apply one view's operation to one block of its pixels."""
    view = tl.program_id(1)
    kind = tl.load(numbers_ptr + view * 8)
    numbers = numbers_ptr + view * 8 + 2
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size * size
    y = pixel // size
    x = pixel - y * size
    source = source_ptr + view.to(tl.int64) * size * size * 3
    target = target_ptr + view.to(tl.int64) * size * size * 3 + pixel * 3
    if kind == _AFFINE:
        from_x = x * _int32(numbers) + y * _int32(numbers + 1) + _int32(numbers + 2)
        from_y = x * _int32(numbers + 3) + y * _int32(numbers + 4) + _int32(numbers + 5)
        _move(source, target, from_x >> 16, from_y >> 16, size, inside)
    elif kind == _FAR:
        from_x, from_y = _add_up(x, y, numbers, size)
        # Beyond 32 bits there is no pixel, and -0.5 is none either.
        from_x = tl.where((from_x >= 0) & (from_x < size), from_x, -1.0).to(tl.int32)
        from_y = tl.where((from_y >= 0) & (from_y < size), from_y, -1.0).to(tl.int32)
        _move(source, target, from_x, from_y, size, inside)
    elif kind == _COLOR:
        factor = _factor(tl.load(numbers))
        red = tl.load(source + pixel * 3, inside, 0).to(tl.int32)
        green = tl.load(source + pixel * 3 + 1, inside, 0).to(tl.int32)
        blue = tl.load(source + pixel * 3 + 2, inside, 0).to(tl.int32)
        grey = _grey(red, green, blue)
        tl.store(target, _blended(grey, red, factor), inside)
        tl.store(target + 1, _blended(grey, green, factor), inside)
        tl.store(target + 2, _blended(grey, blue, factor), inside)
    elif kind == _SHARPNESS:
        factor = _factor(tl.load(numbers))
        middle = inside & (x > 0) & (y > 0) & (x < size - 1) & (y < size - 1)
        for channel in tl.static_range(3):
            value = tl.load(source + pixel * 3 + channel, inside, 0).to(tl.int32)
            total = value * 4 + 6  # the middle counts five times; a thirteenth is never a half
            for down in tl.static_range(3):
                for across in tl.static_range(3):
                    neighbour = ((y + down - 1) * size + x + across - 1) * 3 + channel
                    total += tl.load(source + neighbour, middle, 0).to(tl.int32)
            smooth = tl.where(middle, total // 13, value)
            tl.store(target + channel, _blended(smooth, value, factor), inside)
    else:  # _TABLE
        for channel in tl.static_range(3):
            value = tl.load(source + pixel * 3 + channel, inside, 0).to(tl.int32)
            tl.store(target + channel, tl.load(tables_ptr + (view * 3 + channel) * 256 + value, inside, 0), inside)


@triton.jit
def _move(source, target, from_x, from_y, size, inside):  # type: ignore[no-untyped-def]
    """Take each pixel from another one; what lies beyond the view is black."""
    covered = inside & (from_x >= 0) & (from_x < size) & (from_y >= 0) & (from_y < size)
    place = (from_y * size + from_x) * 3
    for channel in tl.static_range(3):
        tl.store(target + channel, tl.load(source + place + channel, covered, 0), inside)


@triton.jit
def _add_up(x, y, numbers, size):  # type: ignore[no-untyped-def]
    """Source coordinates of pixels (x, y): Pillow adds the matrix up row by row, then pixel by pixel."""
    from_x = tl.zeros_like(x).to(tl.float64) + _float64(tl.load(numbers + 2))
    from_y = tl.zeros_like(x).to(tl.float64) + _float64(tl.load(numbers + 5))
    a_row_x = _float64(tl.load(numbers + 1))
    a_row_y = _float64(tl.load(numbers + 4))
    for row in range(size):
        from_x = tl.where(row < y, from_x + a_row_x, from_x)
        from_y = tl.where(row < y, from_y + a_row_y, from_y)
    a_pixel_x = _float64(tl.load(numbers))
    a_pixel_y = _float64(tl.load(numbers + 3))
    for column in range(size):
        from_x = tl.where(column < x, from_x + a_pixel_x, from_x)
        from_y = tl.where(column < x, from_y + a_pixel_y, from_y)
    return from_x, from_y


@triton.jit
def _int32(number_ptr):  # type: ignore[no-untyped-def]
    return tl.load(number_ptr).to(tl.int32)


@triton.jit
def _float64(bits):  # type: ignore[no-untyped-def]
    return bits.to(tl.float64, bitcast=True)


@triton.jit
def _factor(bits):  # type: ignore[no-untyped-def]
    """The factor of a blend; Pillow's is a float32."""
    return bits.to(tl.float64, bitcast=True).to(tl.float32)


@triton.jit
def _grey(red, green, blue):  # type: ignore[no-untyped-def]
    """ITU-R 601 luma in 16-bit fixed point, as Pillow converts to L."""
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16


@triton.jit
def _blended(start, end, factor):  # type: ignore[no-untyped-def]
    moved = start.to(tl.float32) + factor * (end - start).to(tl.float32)
    return tl.minimum(tl.maximum(moved, 0.0), 255.0).to(tl.uint8)
