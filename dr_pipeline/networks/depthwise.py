"""The weight gradient of depthwise convolutions, for which cuDNN has slow kernels in bfloat16 and channels last.

A depthwise convolution has a filter for each channel alone. Its weight gradient at a tap is the sum, over the pixels of
all outputs, of the output's gradient times the input's value under that tap. A program of the kernel sums some rows of
outputs for one row of taps; the programs' sums are added afterwards, in a fixed order, so that equal inputs give equal
bits.

B images, C channels, O = C × multiplier channels of outputs, H and W pixels of inputs, Y and X of outputs, K × K taps.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_MOST_TAPS = 8  # that a program sums at once, one register of each thread for each tap and value
_MOST_PIXELS = 16
_TILE = 1024  # pixels × channels: 8 values of each of 128 threads, 16 bytes in bfloat16
_PROGRAMS = 4096  # several for each place on the largest GPU; not counted there, so that every GPU adds alike


class Movement(NamedTuple):
    """How a convolution moves over its input; each is of y, then of x."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


class DepthwiseConv2d(nn.Conv2d):
    """torch's, with the weight gradient of this module, in float32 where the weights are, also under autocast."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return super()._conv_forward(input, weight, bias)
        device = input.device.type
        if torch.is_autocast_enabled(device):
            input = input.to(torch.get_autocast_dtype(device))
        assert isinstance(self.padding, tuple), "as use_own_gradients has seen"
        return _Convolution.apply(input, weight, bias, Movement(self.stride, self.padding, self.dilation))


def use_own_gradients(module: nn.Module) -> None:
    """Let the module's depthwise convolutions compute their weight gradients here; nothing else of them changes."""
    for part in module.modules():
        # Subclasses may convolve in ways of their own, and a padding may be a word.
        if type(part) is not nn.Conv2d or part.padding_mode != "zeros" or not isinstance(part.padding, tuple):
            continue
        if part.groups == part.in_channels > 1:
            part.__class__ = DepthwiseConv2d


class _Convolution(torch.autograd.Function):
    """A depthwise convolution in its input's precision."""

    @staticmethod
    def forward(ctx: Any, input_BCHW: Tensor, weight_O1KK: Tensor, bias_O: Tensor | None, movement: Movement) -> Tensor:
        cast_O1KK = weight_O1KK.to(input_BCHW.dtype)
        ctx.save_for_backward(input_BCHW, cast_O1KK)
        ctx.movement, ctx.weight_dtype = movement, weight_O1KK.dtype
        ctx.bias_dtype = None if bias_O is None else bias_O.dtype
        cast_O = None if bias_O is None else bias_O.to(input_BCHW.dtype)
        return F.conv2d(input_BCHW, cast_O1KK, cast_O, *movement, groups=input_BCHW.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BOYX: Tensor) -> tuple[Tensor | None, ...]:
        input_BCHW, weight_O1KK = ctx.saved_tensors
        of_input = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            stride, padding, dilation = ctx.movement
            groups, wanted = input_BCHW.shape[1], [True, False, False]
            of_input, _, _ = torch.ops.aten.convolution_backward(
                gradient_BOYX, input_BCHW, weight_O1KK, None, stride, padding, dilation, False, [0, 0], groups, wanted
            )
        if ctx.needs_input_grad[1]:
            size = list(weight_O1KK.shape[2:])
            of_weight = weight_gradient(input_BCHW, gradient_BOYX, size, *ctx.movement).to(ctx.weight_dtype)
        if ctx.needs_input_grad[2]:
            of_bias = gradient_BOYX.sum((0, 2, 3), dtype=ctx.bias_dtype)
        return of_input, of_weight, of_bias, None


@torch.library.custom_op("dr_pipeline::depthwise_weight_gradient", mutates_args=())  # torch.compile looks not into it
def weight_gradient(
    input_BCHW: Tensor, gradient_BOYX: Tensor, size: list[int], stride: list[int], padding: list[int],
    dilation: list[int],
) -> Tensor:  # fmt: skip
    """The gradient [O, 1, K, K] in float32 of the weights of `size` (K, K) taps."""
    input_BCHW = input_BCHW.contiguous(memory_format=torch.channels_last)
    gradient_BOYX = gradient_BOYX.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = input_BCHW.shape
    _, out_channels, out_height, out_width = gradient_BOYX.shape
    num_rows, multiplier = batch * out_height, out_channels // channels
    taps = min(_MOST_TAPS, triton.next_power_of_2(size[1]))
    pixels = min(_MOST_PIXELS, triton.next_power_of_2(out_width))
    block = min(_TILE // pixels, triton.next_power_of_2(channels))
    tap_groups = size[0] * triton.cdiv(size[1], taps)
    blocks = triton.cdiv(channels, block) * multiplier
    rows = triton.cdiv(num_rows, max(1, _PROGRAMS // (tap_groups * blocks)))
    parts = triton.cdiv(num_rows, rows)
    sums = torch.empty((parts, out_channels, 1, *size), dtype=torch.float32, device=input_BCHW.device)
    # The programs that read the same rows are neighbours, so that all but the first find them in the cache.
    _sum_rows[(tap_groups, parts, blocks)](
        input_BCHW, gradient_BOYX, sums, num_rows, rows, height, width, channels, out_height, out_width, multiplier,
        *stride, *padding, *dilation, size[0], size[1], taps, pixels, block,
    )  # fmt: skip
    return torch.sum(sums, 0, out=_empty(input_BCHW, out_channels, size))


@weight_gradient.register_fake
def _(input_BCHW, gradient_BOYX, size, stride, padding, dilation):  # type: ignore[no-untyped-def]
    return _empty(input_BCHW, gradient_BOYX.shape[1], size)


def _empty(input_BCHW: Tensor, out_channels: int, size: list[int]) -> Tensor:
    """A gradient with the strides of weights in channels last, which DistributedDataParallel asks for."""
    shape, layout = (out_channels, 1, *size), torch.channels_last
    return torch.empty(shape, dtype=torch.float32, device=input_BCHW.device, memory_format=layout)


_ANY_VALUE = (
    "num_rows", "rows", "height", "width", "out_height", "out_width",
    "stride_y", "stride_x", "padding_y", "padding_x", "dilation_y", "dilation_x",
)  # fmt: skip
"""Numbers for whose values no code of its own is compiled, which takes seconds for each."""


@triton.jit(do_not_specialize=_ANY_VALUE)
def _sum_rows(  # type: ignore[no-untyped-def]
    input_ptr, gradient_ptr, sums_ptr, num_rows, rows, height, width, channels, out_height, out_width, multiplier,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sum `rows` rows of outputs, of all images' `num_rows`, for TAPS taps of a row and CHANNELS channels.

    Values are [TAPS, PIXELS, CHANNELS]. The pixels are added up at the end alone: within the loop every thread adds to
    registers of its own.
    """
    tap_y = tl.program_id(0) % TAPS_Y
    tap_x = tl.program_id(0) // TAPS_Y * TAPS + tl.arange(0, TAPS)[:, None, None]
    pixel = tl.arange(0, PIXELS)[None, :, None]
    channel = tl.program_id(2) // multiplier * CHANNELS + tl.arange(0, CHANNELS)[None, None, :]
    out_channel = channel * multiplier + tl.program_id(2) % multiplier
    out_channels = channels * multiplier
    first = tl.program_id(1) * rows
    total = tl.zeros((TAPS, PIXELS, CHANNELS), tl.float32)
    for number in range(tl.minimum(rows, num_rows - first)):
        row = first + number
        image = row // out_height
        y = (row - image * out_height) * stride_y - padding_y + tap_y * dilation_y
        input_row = input_ptr + (image.to(tl.int64) * height + y) * width * channels + channel
        gradient_row = gradient_ptr + row.to(tl.int64) * out_width * out_channels + out_channel
        seen = (y >= 0) & (y < height) & (tap_x < TAPS_X) & (channel < channels)
        for left in range(0, out_width, PIXELS):
            out_x = left + pixel
            x = out_x * stride_x - padding_x + tap_x * dilation_x
            gradient = tl.load(gradient_row + out_x * out_channels, (out_x < out_width) & (channel < channels), 0)
            value = tl.load(input_row + x * channels, seen & (x >= 0) & (x < width), 0)
            total += value.to(tl.float32) * gradient.to(tl.float32)
    place = (tl.program_id(1).to(tl.int64) * out_channels + out_channel) * TAPS_Y * TAPS_X + tap_y * TAPS_X + tap_x
    tl.store(sums_ptr + place, tl.sum(total, 1)[:, None, :], (tap_x < TAPS_X) & (channel < channels))
