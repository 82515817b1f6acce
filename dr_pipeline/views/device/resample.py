"""Crops and resizes on the device; pixels equal those of Pillow 13's `Image.resize` to the last bit.

Pillow resizes one axis, rounds and clips to 8 bits, then resizes the other. A pass sums a few neighbours ("taps") with
22-bit integer weights, so that it is exact on any processor. The weights are computed in float64, in the order of
Pillow's Resample.c and without fused multiply-add.

Shapes: N views, S pixels a side of a view, A axes to resize, K taps.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from dr_pipeline.config.augmentation import Interpolation
from dr_pipeline.views.device.launch import block_size
from dr_pipeline.views.resample import Box

_WEIGHT_BITS = 22
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
"""Half the filter's width, in pixels of the coarser of the two grids."""


class Images(NamedTuple):
    """RGB images of any sizes, one after the other in one buffer on the device."""

    pixels: Tensor
    """uint8, one-dimensional."""
    offsets: Sequence[int]
    """The index of each image's first value in `pixels`."""
    widths: Sequence[int]


class _Geometry(NamedTuple):
    """The geometry of a pass for each view; the kernel reads it as int64 [N, 7], with the columns in this order."""

    source_start_N: np.ndarray
    source_width_N: np.ndarray
    """Pixels of a row of the source."""
    target_start_N: np.ndarray
    rows_N: np.ndarray
    columns_N: np.ndarray
    """Rows and columns of the target."""
    vertical_N: np.ndarray
    """1 where the vertical axis is resized, 0 where the horizontal one is."""
    length_N: np.ndarray
    """Pixels of the resized axis in the source."""


def upload(images_HWC: Sequence[np.ndarray], device: torch.device) -> Images:
    """Move uint8 images [H, W, 3] to the device in one copy."""
    offsets = np.cumsum([0, *(image.size for image in images_HWC)])
    staged = torch.empty(int(offsets[-1]), dtype=torch.uint8, pin_memory=device.type == "cuda")
    flat = staged.numpy()
    for start, image in zip(offsets, images_HWC, strict=False):
        flat[start : start + image.size] = image.reshape(-1)
    pixels = staged.to(device, non_blocking=True)
    return Images(pixels, offsets[:-1].tolist(), [image.shape[1] for image in images_HWC])


def resize_crops(
    images: Images, owners: Sequence[int], crops: Sequence[Box], size: int, interpolation: Interpolation
) -> Tensor:
    """Crop box `crops[i]` of image `owners[i]`, resized → uint8 pixels [N, size, size, 3]."""
    num_views, device = len(crops), images.pixels.device
    top_N, left_N, height_N, width_N = np.array(crops, np.int64).reshape(num_views, 4).T
    image_width_N = np.array(images.widths, np.int64)[list(owners)]
    start_N = np.array(images.offsets, np.int64)[list(owners)] + 3 * (top_N * image_width_N + left_N)
    rows_first_N = (height_N > size) & (height_N - size > 2 * (width_N - size))

    # Between the passes a view has its old height and new width, or, where the rows come first, the reverse.
    rows_N = np.where(rows_first_N, size, height_N)
    columns_N = np.where(rows_first_N, width_N, size)
    between_N = np.cumsum(rows_N * columns_N * 3)
    between = torch.empty(int(between_N[-1]), dtype=torch.uint8, device=device)
    between_N -= rows_N * columns_N * 3
    views = torch.empty((num_views, size, size, 3), dtype=torch.uint8, device=device)
    views_N = np.arange(num_views) * size * size * 3
    size_N = np.full(num_views, size)

    first_lengths, second_lengths = np.where(rows_first_N, [height_N, width_N], [width_N, height_N])
    first = _Geometry(start_N, image_width_N, between_N, rows_N, columns_N, rows_first_N, first_lengths)
    second = _Geometry(between_N, columns_N, views_N, size_N, size_N, ~rows_first_N, second_lengths)
    _run_pass(images.pixels, between, first, size, interpolation)
    _run_pass(between, views, second, size, interpolation)
    return views


def _run_pass(source: Tensor, target: Tensor, geometry: _Geometry, size: int, interpolation: Interpolation) -> None:
    """Resize one axis of every view to `size` pixels."""
    geometry_N7 = torch.from_numpy(np.stack(geometry, 1).astype(np.int64)).to(source.device, non_blocking=True)
    first_NS, weights_NKS = taps(geometry_N7[:, 6], int(geometry.length_N.max()), size, interpolation)
    num_taps = weights_NKS.shape[1]
    most_values = int((geometry.rows_N * geometry.columns_N).max()) * 3
    block = block_size(most_values)
    grid = (triton.cdiv(most_values, block), len(geometry.rows_N))
    _resize_axis[grid](source, target, geometry_N7, first_NS, weights_NKS, num_taps, size, block)


def taps(lengths_A: Tensor, longest: int, size: int, interpolation: Interpolation) -> tuple[Tensor, Tensor]:
    """The first input pixel [A, S] of each output pixel, and the int32 weights [A, K, S] of it and the next ones."""
    scale_A1 = lengths_A.to(torch.float64)[:, None] / size
    reach_A1 = scale_A1.clamp(min=1.0)  # a finer grid is interpolated, a coarser one averaged
    support_A1 = _SUPPORT[interpolation] * reach_A1
    outputs = torch.arange(size, device=lengths_A.device, dtype=torch.float64)
    center_AS = (outputs + 0.5) * scale_A1
    first_AS = (center_AS - support_A1 + 0.5).to(torch.int64).clamp(min=0)
    end_AS = torch.minimum((center_AS + support_A1 + 0.5).to(torch.int64), lengths_A[:, None])

    num_taps = int(np.ceil(_SUPPORT[interpolation] * max(longest / size, 1.0))) * 2 + 1
    input_AKS = first_AS[:, None] + torch.arange(num_taps, device=lengths_A.device)[:, None]
    distance_AKS = (input_AKS - center_AS[:, None] + 0.5) * (1.0 / reach_A1[:, None])
    weight_AKS = _FILTERS[interpolation](distance_AKS.abs()) * (input_AKS < end_AS[:, None])
    total_AS = torch.zeros_like(center_AS)
    for tap in range(num_taps):  # one after the other, as Pillow adds them
        total_AS += weight_AKS[:, tap]
    weight_AKS = weight_AKS / torch.where(total_AS == 0, 1.0, total_AS)[:, None]
    fixed_AKS = weight_AKS * (1 << _WEIGHT_BITS)
    return first_AS.to(torch.int32), (fixed_AKS + torch.where(fixed_AKS < 0, -0.5, 0.5)).to(torch.int32)


def _bilinear(distance: Tensor) -> Tensor:
    return torch.where(distance < 1, 1 - distance, 0.0)


def _bicubic(distance: Tensor) -> Tensor:
    """Keys's cubic with a = -0.5."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


_FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic}


@triton.jit
def _resize_axis(source_ptr, target_ptr, geometry_ptr, first_ptr, weight_ptr, num_taps, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute one block of one view's values, which are in HWC order; see `_Geometry`."""
    view = tl.program_id(1)
    source_start = tl.load(geometry_ptr + view * 7)
    source_width = tl.load(geometry_ptr + view * 7 + 1).to(tl.int32)
    target_start = tl.load(geometry_ptr + view * 7 + 2)
    rows = tl.load(geometry_ptr + view * 7 + 3).to(tl.int32)
    columns = tl.load(geometry_ptr + view * 7 + 4).to(tl.int32)
    vertical = tl.load(geometry_ptr + view * 7 + 5) != 0
    length = tl.load(geometry_ptr + view * 7 + 6).to(tl.int32)
    if tl.program_id(0) * BLOCK >= rows * columns * 3:
        return
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < rows * columns * 3
    row = place // (columns * 3)
    column = place // 3 - row * columns
    channel = place % 3

    output = tl.where(vertical, row, column)
    first = tl.load(first_ptr + view * size + output, inside, 0)
    from_row = tl.where(vertical, first, row)
    from_column = tl.where(vertical, column, first)
    from_place = source_start + (from_row * source_width + from_column) * 3 + channel
    step = tl.where(vertical, source_width * 3, 3)
    total = tl.full((BLOCK,), 1 << 21, tl.int32)  # half of the last place that is cut off
    for tap in range(num_taps):
        weight = tl.load(weight_ptr + (view * num_taps + tap) * size + output, inside, 0)
        value = tl.load(source_ptr + from_place + tap * step, inside & (first + tap < length), 0)
        total += weight * value.to(tl.int32)
    total = tl.minimum(tl.maximum(total >> 22, 0), 255)
    tl.store(target_ptr + target_start + place, total.to(tl.uint8), inside)
