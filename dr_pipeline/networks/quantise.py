"""Rows of numbers in 8 bits, by one kernel that reads them once; `networks.float8.quantise_rows` has the same in torch.

Shapes: R rows, I input channels.
"""

import torch
import triton
import triton.language as tl


def quantise_on_device(
    values_RI: torch.Tensor, largest: float, smallest_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Floats → e4m3 [R, I] of magnitudes up to `largest`, and float32 scales [R, 1], no less than `smallest_scale`."""
    values_RI = values_RI.contiguous()
    num_rows, width = values_RI.shape
    quantised_RI = torch.empty_like(values_RI, dtype=torch.float8_e4m3fn)
    scale_R1 = values_RI.new_empty(num_rows, 1, dtype=torch.float32)
    block = triton.next_power_of_2(width)
    _quantise_row[(num_rows,)](values_RI, quantised_RI, scale_R1, width, largest, smallest_scale, BLOCK=block)
    return quantised_RI, scale_R1


@triton.jit
def _quantise_row(values, quantised, scales, width, largest, smallest_scale, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program quantises a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    value = tl.load(values + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.div_rn(tl.max(tl.abs(value), axis=0), largest), smallest_scale)
    quantised_value = (value * tl.div_rn(1.0, scale)).to(tl.float8e4nv)
    tl.store(quantised + row * width + columns, quantised_value, mask=inside)
    tl.store(scales + row, scale)
