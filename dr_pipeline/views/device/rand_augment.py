"""RandAugment's operations on all views at once, on the device; pixels equal `views.rand_augment`'s to the last bit.

An operation is one of four kinds. A table maps each 8-bit value to another; a table may depend on the view's histogram.
An affine operation takes each pixel from the nearest one of the source, by 16-bit fixed-point coordinates. Color and
sharpness blend a pixel with its grey or with its smoothed neighbourhood, in float32.

Shapes: N views, S pixels a side, V = 256 values.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from dr_pipeline.views import rand_augment as host
from dr_pipeline.views.device.launch import block_size
from dr_pipeline.views.rand_augment import Op, slope

_TABLE, _AFFINE, _COLOR, _SHARPNESS = range(4)
_FROM_HISTOGRAM = (host.CONTRAST, host.AUTO_CONTRAST, host.EQUALIZE)
_IDENTITY_OP: Op = (host.IDENTITY, 0.0)
_LARGEST_COORDINATE = 32768.0  # of 16-bit fixed point; beyond it Pillow computes otherwise
_VALUES = np.arange(256)

Matrix = tuple[float, float, float, float, float, float]


class _Plan(NamedTuple):
    """One operation on one view, as the kernels take it."""

    kind: int
    matrix: tuple[int, ...] = (0,) * 6
    """Source x and y of output (x, y) in 1/65536 px: (a·x + b·y + c, d·x + e·y + f)."""
    factor: float = 1.0
    """The factor of a blend; 1 leaves the image unchanged."""
    table: np.ndarray = _VALUES.astype(np.uint8)


def apply(views_NSSC: Tensor, ops_N: Sequence[Sequence[Op]]) -> Tensor:
    """Apply each view's operations in order to uint8 pixels [N, S, S, 3].

    Raises ValueError where an operation cannot take its magnitude.
    """
    for step in range(max(map(len, ops_N), default=0)):
        views_NSSC = _apply_one(views_NSSC, [ops[step] if step < len(ops) else _IDENTITY_OP for ops in ops_N])
    return views_NSSC


def _apply_one(views_NSSC: Tensor, ops: Sequence[Op]) -> Tensor:
    num_views, size, device = len(ops), views_NSSC.shape[1], views_NSSC.device
    plans = [_plan(op, magnitude, size) for op, magnitude in ops]
    whole = torch.tensor([(op, plan.kind, *plan.matrix) for (op, _), plan in zip(ops, plans, strict=True)])
    whole = whole.to(device, torch.int32, non_blocking=True)
    factor_N = torch.tensor([plan.factor for plan in plans], dtype=torch.float32).to(device, non_blocking=True)
    tables = torch.from_numpy(np.stack([plan.table for plan in plans])).to(device, non_blocking=True)
    tables_N3V = tables[:, None].expand(-1, 3, -1).contiguous()
    if any(op in _FROM_HISTOGRAM for op, _ in ops):
        _fill_tables_from_histograms(tables_N3V, views_NSSC, whole[:, 0], factor_N)
    applied_NSSC = torch.empty_like(views_NSSC)
    block = block_size(size * size)
    grid = (triton.cdiv(size * size, block), num_views)
    # Not fused: a multiply-add rounds once where Pillow rounds twice.
    _apply_kernel[grid](
        views_NSSC, applied_NSSC, whole, factor_N, tables_N3V, size, block, enable_fp_fusion=False
    )  # fmt: skip
    return applied_NSSC


@lru_cache(maxsize=4096)
def _plan(op: int, magnitude: float, size: int) -> _Plan:
    if op in _MATRICES:
        return _Plan(_AFFINE, _fixed(_MATRICES[op](magnitude, size), size))
    if op == host.COLOR:
        return _Plan(_COLOR, factor=1.0 + magnitude)
    if op == host.SHARPNESS:
        return _Plan(_SHARPNESS, factor=1.0 + magnitude)
    if op == host.CONTRAST:
        return _Plan(_TABLE, factor=1.0 + magnitude)
    if op == host.BRIGHTNESS:
        return _Plan(_TABLE, table=_blend(torch.zeros(1), torch.from_numpy(_VALUES), 1.0 + magnitude).numpy())
    if op == host.POSTERIZE:
        bits = int(magnitude)
        if not 1 <= bits <= 8:
            raise ValueError(f"posterize keeps 1 to 8 bits, found {magnitude}")
        return _Plan(_TABLE, table=(_VALUES & ~(2 ** (8 - bits) - 1)).astype(np.uint8))
    if op == host.SOLARIZE:
        return _Plan(_TABLE, table=np.where(magnitude > _VALUES, _VALUES, 255 - _VALUES).astype(np.uint8))
    return _Plan(_TABLE)


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


_MATRICES = {
    host.SHEAR_X: lambda magnitude, _: (1.0, slope(magnitude), 0.0, 0.0, 1.0, 0.0),
    host.SHEAR_Y: lambda magnitude, _: (1.0, 0.0, 0.0, slope(magnitude), 1.0, 0.0),
    host.TRANSLATE_X: lambda magnitude, _: (1.0, 0.0, -float(int(magnitude)), 0.0, 1.0, 0.0),
    host.TRANSLATE_Y: lambda magnitude, _: (1.0, 0.0, 0.0, 0.0, 1.0, -float(int(magnitude))),
    host.ROTATE: _rotation,
}


def _fixed(matrix: Matrix, size: int) -> tuple[int, ...]:
    """The matrix in 1/65536 px, for pixel centres. Raises ValueError where its coordinates are too large."""
    a, b, c, d, e, f = matrix
    corners = [(x, y) for x in (0, size) for y in (0, size)]
    farthest = max(max(abs(x * a + y * b + c), abs(x * d + y * e + f)) for x, y in corners)
    if farthest >= _LARGEST_COORDINATE:
        raise ValueError(
            f"an operation moves pixels {farthest:.0f} px, more than the device's {_LARGEST_COORDINATE:.0f}"
        )
    centred = (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)
    return tuple(math.floor(value * 65536.0 + 0.5) for value in centred)


def _fill_tables_from_histograms(tables_N3V: Tensor, views_NSSC: Tensor, op_N: Tensor, factor_N: Tensor) -> None:
    num_views, size = views_NSSC.shape[:2]
    counts_N4V = torch.zeros((num_views, 4, 256), dtype=torch.int32, device=views_NSSC.device)
    block = block_size(size * size)
    grid = (triton.cdiv(size * size, block), num_views)
    measured_N = torch.isin(op_N, torch.tensor(_FROM_HISTOGRAM, device=op_N.device)).to(torch.int32)
    _count_kernel[grid](views_NSSC, counts_N4V, measured_N, size, block)
    counts_N4V = counts_N4V.to(torch.int64)
    for op, tables in (
        (host.CONTRAST, _contrast_tables(counts_N4V[:, 3:], factor_N)),
        (host.AUTO_CONTRAST, _auto_contrast_tables(counts_N4V[:, :3])),
        (host.EQUALIZE, _equalize_tables(counts_N4V[:, :3])),
    ):
        tables_N3V.copy_(torch.where((op_N == op)[:, None, None], tables, tables_N3V))


def _contrast_tables(grey_counts_N1V: Tensor, factor_N: Tensor) -> Tensor:
    """The table of a blend with the mean grey."""
    values_V = torch.arange(256, device=factor_N.device)
    total_N1 = (grey_counts_N1V * values_V).sum(-1).to(torch.float64)
    mean_N1 = (total_N1 / grey_counts_N1V.sum(-1).clamp(min=1) + 0.5).to(torch.int64)
    return _blend(mean_N1[..., None], values_V, factor_N[:, None, None])


def _auto_contrast_tables(counts_N3V: Tensor) -> Tensor:
    """The table that maps the least value to 0 and the largest to 255."""
    values_V = torch.arange(256, device=counts_N3V.device)
    low_N31 = torch.where(counts_N3V > 0, values_V, 255).amin(-1, keepdim=True)
    high_N31 = torch.where(counts_N3V > 0, values_V, 0).amax(-1, keepdim=True)
    range_N31 = (high_N31 - low_N31).clamp(min=1).to(torch.float64)
    scale_N31 = torch.full_like(range_N31, 255.0) / range_N31  # 255.0 / x would be 255 times a rounded reciprocal
    offset_N31 = -low_N31 * scale_N31
    stretched_N3V = (values_V * scale_N31 + offset_N31).to(torch.int64).clamp(0, 255)
    return torch.where(high_N31 <= low_N31, values_V, stretched_N3V).to(torch.uint8)


def _equalize_tables(counts_N3V: Tensor) -> Tensor:
    """The table that maps each value to the share of pixels below it."""
    values_V = torch.arange(256, device=counts_N3V.device)
    high_N31 = torch.where(counts_N3V > 0, values_V, 0).amax(-1, keepdim=True)
    total_N31 = counts_N3V.sum(-1, keepdim=True)
    step_N31 = (total_N31 - counts_N3V.gather(-1, high_N31)) // 255
    below_N3V = step_N31 // 2 + counts_N3V.cumsum(-1) - counts_N3V
    equal_N3V = (below_N3V // step_N31.clamp(min=1)).clamp(max=255)
    return torch.where(step_N31 == 0, values_V, equal_N3V).to(torch.uint8)


def _blend(start: Tensor, end: Tensor, factor: float | Tensor) -> Tensor:
    """Pillow's blend: `start` at factor 0, `end` at 1, truncated to 8 bits."""
    factor = torch.as_tensor(factor, dtype=torch.float32)
    moved = start + factor * (end - start).to(torch.float32)
    return moved.clamp(0, 255).to(torch.uint8)


@triton.jit
def _count_kernel(views_ptr, counts_ptr, measured_ptr, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Histograms of red, green, blue and grey of one block of one view."""
    view = tl.program_id(1)
    if tl.load(measured_ptr + view) == 0:
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
def _apply_kernel(source_ptr, target_ptr, whole_ptr, factor_ptr, table_ptr, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One block of one view's pixels. `whole` has a view's op, kind and matrix."""
    view = tl.program_id(1)
    kind = tl.load(whole_ptr + view * 8 + 1)
    factor = tl.load(factor_ptr + view)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size * size
    y = pixel // size
    x = pixel - y * size
    source = source_ptr + view.to(tl.int64) * size * size * 3
    target = target_ptr + view.to(tl.int64) * size * size * 3 + pixel * 3
    if kind == 1:  # _AFFINE
        matrix = whole_ptr + view * 8 + 2
        from_x = (x * tl.load(matrix) + y * tl.load(matrix + 1) + tl.load(matrix + 2)) >> 16
        from_y = (x * tl.load(matrix + 3) + y * tl.load(matrix + 4) + tl.load(matrix + 5)) >> 16
        covered = inside & (from_x >= 0) & (from_x < size) & (from_y >= 0) & (from_y < size)
        place = (from_y * size + from_x) * 3
        for channel in tl.static_range(3):
            tl.store(target + channel, tl.load(source + place + channel, covered, 0), inside)
    elif kind == 2:  # _COLOR
        red = tl.load(source + pixel * 3, inside, 0).to(tl.int32)
        green = tl.load(source + pixel * 3 + 1, inside, 0).to(tl.int32)
        blue = tl.load(source + pixel * 3 + 2, inside, 0).to(tl.int32)
        grey = _grey(red, green, blue)
        tl.store(target, _blended(grey, red, factor), inside)
        tl.store(target + 1, _blended(grey, green, factor), inside)
        tl.store(target + 2, _blended(grey, blue, factor), inside)
    elif kind == 3:  # _SHARPNESS
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
            tl.store(target + channel, tl.load(table_ptr + (view * 3 + channel) * 256 + value, inside, 0), inside)


@triton.jit
def _grey(red, green, blue):  # type: ignore[no-untyped-def]
    """ITU-R 601 luma in 16-bit fixed point, as Pillow converts to L."""
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16


@triton.jit
def _blended(start, end, factor):  # type: ignore[no-untyped-def]
    moved = start.to(tl.float32) + factor * (end - start).to(tl.float32)
    return tl.minimum(tl.maximum(moved, 0.0), 255.0).to(tl.uint8)
