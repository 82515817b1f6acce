"""A residual and the layer norm that follows it, in one kernel; `models.operations` has the same in torch.

Shapes: R rows, W width.
"""

import torch
import triton
import triton.language as tl
from torch import nn


def add_norm(x_RW: torch.Tensor, change_RW: torch.Tensor, norm: nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of both, and the sum normalised, which is computed in float32; each [R, W]."""
    num_rows, width = x_RW.shape
    sum_RW = torch.empty(
        num_rows, width, dtype=torch.promote_types(x_RW.dtype, change_RW.dtype), device=x_RW.device
    )  # fmt: skip
    normed_RW = torch.empty_like(sum_RW)
    _add_norm[(num_rows,)](
        x_RW.contiguous(),
        change_RW.contiguous(),
        norm.weight,
        norm.bias,
        sum_RW,
        normed_RW,
        width,
        norm.eps,
        BLOCK=triton.next_power_of_2(width),
        num_warps=4,
    )
    return sum_RW, normed_RW


@triton.jit
def _add_norm(x_ptr, change_ptr, weight_ptr, bias_ptr, sum_ptr, normed_ptr, width, epsilon, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row."""
    start = tl.program_id(0).to(tl.int64) * width
    w = tl.arange(0, BLOCK)
    inside = w < width
    x = tl.load(x_ptr + start + w, inside, 0.0).to(tl.float32)
    x += tl.load(change_ptr + start + w, inside, 0.0).to(tl.float32)
    x = x.to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + start + w, x, inside)
    x = x.to(tl.float32)
    centred = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, 0) / width + epsilon)
    weight = tl.load(weight_ptr + w, inside, 0.0).to(tl.float32)
    bias = tl.load(bias_ptr + w, inside, 0.0).to(tl.float32)
    tl.store(normed_ptr + start + w, centred / deviation * weight + bias, inside)
