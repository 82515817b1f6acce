"""Crops and resizes on the device; pixels equal those of Pillow 13's `Image.resize` to the last bit.

Pillow resizes one axis, rounds and clips to 8 bits, then resizes the other. A pass sums a few neighbours ("taps") with
22-bit integer weights, so that it is exact on any processor. The weights are computed in float64, in the order of
Pillow's Resample.c and without fused multiply-add. Where an axis keeps its length they are exactly 0 and 1, as if there
were no pass. What lies beyond the image is black.

Shapes: N views, S pixels a side of a view, 2 passes, G numbers of a pass; L lengths that an axis has before its pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from dr_pipeline.config.augmentation import Interpolation
from dr_pipeline.views.device import block_size
from dr_pipeline.views.transforms import Box

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
"""Half the filter's width, in pixels of the coarser of the two grids."""


class _Pass(NamedTuple):
    """One pass of each view, as the kernel reads it: G = 13 numbers, in this order."""

    source_start_N: np.ndarray
    """The index of the source's first value; that of a box's corner, which may lie beyond its image."""
    source_width_N: np.ndarray
    """Pixels of a row of the source's image."""
    low_N: np.ndarray
    high_N: np.ndarray
    """The part of the resized axis that the source covers; the rest is black."""
    other_low_N: np.ndarray
    other_high_N: np.ndarray
    """The same of the other axis."""
    target_start_N: np.ndarray
    rows_N: np.ndarray
    columns_N: np.ndarray
    """Rows and columns of the target."""
    vertical_N: np.ndarray
    """1 where the vertical axis is resized, 0 where the horizontal one is."""
    mirrored_N: np.ndarray
    """1 where the target is written from right to left."""
    taps_start_N: np.ndarray
    num_taps_N: np.ndarray
    """The taps of the axis' length: S first pixels, then as many weights for each tap."""


@dataclass(frozen=True)
class Resize:
    """The resize of N boxes, as far as the host prepares it."""

    size: int
    interpolation: Interpolation
    passes_N2G: np.ndarray
    lengths_L3: np.ndarray
    """Each length, the start of its taps, and their number."""
    between_values: int
    """Values of all views between their passes."""
    taps_values: int
    most_values: tuple[int, int]
    """Values that the largest view has after its first pass, and after its second."""


def plan_resize(
    shapes: Sequence[tuple[int, int]],
    owners: Sequence[int],
    boxes: Sequence[Box],
    flips: Sequence[bool],
    size: int,
    interpolation: Interpolation,
) -> Resize:
    """Plan views of `size` pixels: box `boxes[i]` of the image `owners[i]`, mirrored where `flips[i]`.

    The images, of shapes (height, width), lie one after the other in one buffer.
    """
    shapes_M2 = np.array(shapes, np.int64).reshape(-1, 2)
    starts_M = _starts(shapes_M2.prod(1) * 3)
    owners_N = np.array(owners, np.int64)
    image_height_N, image_width_N = shapes_M2[owners_N].T
    top_N, left_N, height_N, width_N = np.array(boxes, np.int64).reshape(-1, 4).T
    rows_first_N = (height_N > size) & (height_N - size > 2 * (width_N - size))

    # Between the passes a view has its old height and new width, or, where the rows come first, the reverse.
    rows_N = np.where(rows_first_N, size, height_N)
    columns_N = np.where(rows_first_N, width_N, size)
    between_values_N = rows_N * columns_N * 3
    between_N = _starts(between_values_N)
    vertical = (-top_N, image_height_N - top_N, height_N)
    horizontal = (-left_N, image_width_N - left_N, width_N)
    first_low_N, first_high_N, first_length_N = np.where(rows_first_N, vertical, horizontal)
    other_low_N, other_high_N, second_length_N = np.where(rows_first_N, horizontal, vertical)
    nothing_N, views_N, size_N = np.zeros_like(owners_N), np.arange(len(owners_N)), np.full_like(owners_N, size)
    lengths_2N = np.stack((first_length_N, second_length_N))
    lengths_L3, (first_taps_N3, second_taps_N3), taps_values = _plan_taps(lengths_2N, size, interpolation)

    first = _Pass(
        source_start_N=starts_M[owners_N] + 3 * (top_N * image_width_N + left_N),
        source_width_N=image_width_N,
        low_N=np.maximum(first_low_N, 0),
        high_N=np.minimum(first_high_N, first_length_N),
        other_low_N=other_low_N,
        other_high_N=other_high_N,
        target_start_N=between_N,
        rows_N=rows_N,
        columns_N=columns_N,
        vertical_N=rows_first_N,
        mirrored_N=nothing_N,
        taps_start_N=first_taps_N3[:, 1],
        num_taps_N=first_taps_N3[:, 2],
    )
    second = _Pass(
        source_start_N=between_N,
        source_width_N=columns_N,
        low_N=nothing_N,
        high_N=second_length_N,
        other_low_N=nothing_N,
        other_high_N=size_N,
        target_start_N=views_N * size * size * 3,
        rows_N=size_N,
        columns_N=size_N,
        vertical_N=~rows_first_N,
        mirrored_N=np.array(flips, np.int64),
        taps_start_N=second_taps_N3[:, 1],
        num_taps_N=second_taps_N3[:, 2],
    )
    return Resize(
        size=size,
        interpolation=interpolation,
        passes_N2G=np.stack([np.stack(each, 1).astype(np.int64) for each in (first, second)], 1),
        lengths_L3=lengths_L3,
        between_values=int(between_values_N.sum()),
        taps_values=taps_values,
        most_values=(int(between_values_N.max(initial=0)), size * size * 3),
    )


def _plan_taps(lengths_2N: np.ndarray, size: int, interpolation: Interpolation) -> tuple[np.ndarray, np.ndarray, int]:
    """The taps of the lengths that the axes have: `Resize.lengths_L3`, its rows by pass and view, and all values."""
    lengths_L, index_2N = np.unique(lengths_2N, return_inverse=True)
    num_taps_L = 1 + 2 * np.ceil(_SUPPORT[interpolation] * np.maximum(lengths_L / size, 1.0)).astype(np.int64)
    values_L = (1 + num_taps_L) * size
    lengths_L3 = np.stack((lengths_L, _starts(values_L), num_taps_L), 1)
    return lengths_L3, lengths_L3[index_2N], int(values_L.sum())


def _starts(sizes: np.ndarray) -> np.ndarray:
    """Where pieces of these sizes begin that lie one after the other."""
    return np.cumsum(sizes) - sizes


def launch_resize(pixels: Tensor, passes_N2G: Tensor, lengths_L3: Tensor, plan: Resize) -> Tensor:
    """The uint8 values of the images → uint8 views [N, S, S, 3], on the same device."""
    num_views, size, device = len(plan.passes_N2G), plan.size, pixels.device
    taps = torch.empty(plan.taps_values, dtype=torch.int32, device=device)
    between = torch.empty(plan.between_values, dtype=torch.uint8, device=device)
    views = torch.empty((num_views, size, size, 3), dtype=torch.uint8, device=device)
    block = min(block_size(size), triton.next_power_of_2(size))
    # Not fused: a multiply-add rounds once where Pillow rounds twice.
    _taps_kernel[(len(plan.lengths_L3), triton.cdiv(size, block))](
        lengths_L3, taps, size, _SUPPORT[plan.interpolation], plan.interpolation == "bicubic", block,
        enable_fp_fusion=False,
    )  # fmt: skip
    for index, (source, target) in enumerate(((pixels, between), (between, views))):
        block = block_size(plan.most_values[index])
        grid = (triton.cdiv(plan.most_values[index], block), num_views)
        _resize_kernel[grid](source, target, passes_N2G, taps, size, index, block)
    return views


@triton.jit
def _taps_kernel(lengths_ptr, taps_ptr, size, SUPPORT: tl.constexpr, BICUBIC: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute, for a block of outputs of one length, the first pixel and the weight of each tap; see `Resize`."""
    numbers = lengths_ptr + tl.program_id(0) * 3
    length = tl.load(numbers).to(tl.int32)
    taps = taps_ptr + tl.load(numbers + 1)
    num_taps = tl.load(numbers + 2).to(tl.int32)
    output = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = output < size

    scale = length.to(tl.float64) / size
    reach = tl.maximum(scale, 1.0)  # a finer grid is interpolated, a coarser one averaged
    center = (output.to(tl.float64) + 0.5) * scale
    first = tl.maximum((center - SUPPORT * reach + 0.5).to(tl.int32), 0)
    end = tl.minimum((center + SUPPORT * reach + 0.5).to(tl.int32), length)
    per_pixel = 1.0 / reach
    total = tl.zeros((BLOCK,), tl.float64)
    for tap in range(num_taps):  # one after the other, as Pillow adds them
        total += _weight(first + tap, end, center, per_pixel, BICUBIC)
    total = tl.where(total == 0, 1.0, total)
    tl.store(taps + output, first, inside)
    for tap in range(num_taps):
        fixed = _weight(first + tap, end, center, per_pixel, BICUBIC) / total * 4194304.0  # 22 bits
        rounded = (fixed + tl.where(fixed < 0, -0.5, 0.5)).to(tl.int32)
        tl.store(taps + (1 + tap) * size + output, rounded, inside)


@triton.jit
def _weight(pixel, end, center, per_pixel, BICUBIC: tl.constexpr):  # type: ignore[no-untyped-def]
    """The filter's weight of an input pixel, in float64: linear, or Keys's cubic with a = -0.5."""
    distance = tl.abs((pixel.to(tl.float64) - center + 0.5) * per_pixel)
    if BICUBIC:
        near = (1.5 * distance - 2.5) * distance * distance + 1.0
        far = (((distance - 5.0) * distance + 8.0) * distance - 4.0) * -0.5
        weight = tl.where(distance < 1.0, near, tl.where(distance < 2.0, far, 0.0))
    else:
        weight = tl.where(distance < 1.0, 1.0 - distance, 0.0)
    return tl.where(pixel < end, weight, 0.0)


@triton.jit
def _resize_kernel(source_ptr, target_ptr, passes_ptr, taps_ptr, size, INDEX: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute one block of one view's values, which are in HWC order, in its first or second pass; see `_Pass`."""
    numbers = passes_ptr + (tl.program_id(1) * 2 + INDEX) * 13
    rows = tl.load(numbers + 7).to(tl.int32)
    columns = tl.load(numbers + 8).to(tl.int32)
    if tl.program_id(0) * BLOCK >= rows * columns * 3:
        return
    source_start = tl.load(numbers)
    source_width = tl.load(numbers + 1)
    low = tl.load(numbers + 2).to(tl.int32)
    high = tl.load(numbers + 3).to(tl.int32)
    vertical = tl.load(numbers + 9) != 0
    mirrored = tl.load(numbers + 10) != 0
    taps = taps_ptr + tl.load(numbers + 11)
    num_taps = tl.load(numbers + 12).to(tl.int32)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < rows * columns * 3
    row = place // (columns * 3)
    column = place // 3 - row * columns
    channel = place % 3

    output = tl.where(vertical, row, column)
    other = tl.where(vertical, column, row)
    covered = inside & (other >= tl.load(numbers + 4)) & (other < tl.load(numbers + 5))
    first = tl.load(taps + output, inside, 0)
    from_row = tl.where(vertical, first, row)
    from_column = tl.where(vertical, column, first)
    from_place = source_start + (from_row * source_width + from_column) * 3 + channel
    step = tl.where(vertical, source_width.to(tl.int32) * 3, 3)
    total = tl.full((BLOCK,), 1 << 21, tl.int32)  # half of the last place that is cut off
    for tap in range(num_taps):
        weight = tl.load(taps + (1 + tap) * size + output, inside, 0)
        pixel = first + tap
        value = tl.load(source_ptr + from_place + tap * step, covered & (pixel >= low) & (pixel < high), 0)
        total += weight * value.to(tl.int32)
    total = tl.minimum(tl.maximum(total >> 22, 0), 255)
    to_column = tl.where(mirrored, columns - 1 - column, column)
    to_place = (row * columns + to_column) * 3 + channel
    tl.store(target_ptr + tl.load(numbers + 6) + to_place, total.to(tl.uint8), inside)
