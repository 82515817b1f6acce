"""The own weight gradient of depthwise convolutions is torch's but for rounding, however they are called.

Without a GPU the kernel runs in Triton's interpreter (tests/conftest.py), which takes code that no compiler would.
"""

import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from torch.utils.checkpoint import checkpoint

from dr_pipeline.networks.depthwise import DepthwiseConv2d, use_own_gradients, weight_gradient
from tests.gpu_code import compiled_by

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Call = Callable[[nn.Module, Tensor], Tensor]


def convolution(channels: int, multiplier: int, size: Any, **how: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, channels * multiplier, size, groups=channels, bias=False, **how)


SHAPES = {
    "MobileCLIP2's 7 × 7": (convolution(16, 1, 7, padding=3), (1, 8, 8)),
    "its 3 × 3": (convolution(64, 1, 3, padding=1), (1, 8, 8)),
    "its 1 × 1": (convolution(70, 1, 1), (2, 5, 9)),
    "its stem": (convolution(8, 1, 3, stride=2, padding=1), (2, 13, 12)),
    "its stem's 1 × 1": (convolution(8, 1, 1, stride=2), (2, 13, 12)),
    "its downsampling": (convolution(12, 2, 7, stride=2, padding=3), (1, 6, 20)),
    "ConvNeXt at 224 px": (convolution(6, 1, 7, padding=3), (1, 5, 14)),
    "several groups of taps": (convolution(3, 1, (1, 19), padding=(0, 9)), (1, 3, 33)),
    "nothing alike": (convolution(5, 3, (3, 2), stride=(2, 3), padding=(0, 2), dilation=(1, 4)), (3, 8, 11)),
    "padding alone": (convolution(4, 1, 3, padding=4, dilation=2), (1, 1, 1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("own", "shape"), SHAPES.values(), ids=SHAPES)
def test_it_is_torchs_in_float64(own: nn.Conv2d, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    batch, height, width = shape
    input_BCHW = torch.randn(batch, own.in_channels, height, width, device=DEVICE).to(dtype)
    gradient_BOYX = torch.randn_like(deepcopy(own).to(DEVICE, dtype)(input_BCHW)).detach()
    how: Any = (own.stride, own.padding, own.dilation)
    theirs = conv2d_weight(input_BCHW.double(), own.weight.shape, gradient_BOYX.double(), *how, groups=own.groups)
    ours = weight_gradient(input_BCHW, gradient_BOYX, own.kernel_size, *how)
    assert ours.dtype == torch.float32
    assert float((ours - theirs).abs().max()) < 1e-6 * float(theirs.abs().max()), "products of these dtypes are exact"
    channels_last = [values.contiguous(memory_format=torch.channels_last) for values in (input_BCHW, gradient_BOYX)]
    assert torch.equal(ours, weight_gradient(*channels_last, own.kernel_size, *how))


def network() -> nn.Module:
    torch.manual_seed(2)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        convolution(8, 1, 7, padding=3),
        nn.GroupNorm(2, 8),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(16, 16, 3, padding="same", groups=16),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular", groups=16),
    ]
    return nn.Sequential(*layers).to(DEVICE, memory_format=torch.channels_last)


def gradients(module: nn.Module, call: Call, precision: torch.dtype) -> list[Tensor]:
    images_BCHW = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(3)).to(DEVICE).requires_grad_()
    with torch.autocast(DEVICE.type, precision, enabled=precision != torch.float32):
        output = call(module, images_BCHW)
    output.float().square().sum().backward()
    assert images_BCHW.grad is not None
    return [images_BCHW.grad, *(value.grad for value in module.parameters() if value.grad is not None)]


CALLS: dict[str, Call] = {
    "plain": lambda module, images_BCHW: module(images_BCHW),
    "checkpointed": lambda module, images_BCHW: checkpoint(module, images_BCHW, use_reentrant=False),
    "compiled": lambda module, images_BCHW: torch.compile(module, backend="aot_eager", fullgraph=True)(images_BCHW),
}


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_network_s_gradients_are_those_of_torch(call: Call, precision: torch.dtype, tolerance: float) -> None:
    theirs, ours = network(), network()
    use_own_gradients(ours)
    ours = deepcopy(ours)  # as a moving average does
    assert [isinstance(part, DepthwiseConv2d) for part in ours.children()] == [False, True, False, True, False, False]
    pairs = list(zip(gradients(ours, call, precision), gradients(theirs, CALLS["plain"], precision), strict=True))
    assert len(pairs) == 1 + len(list(theirs.parameters()))
    for own, other in pairs:
        assert own.dtype == torch.float32
        assert own.stride() == other.stride()
        assert float((own - other).norm()) < tolerance * float(other.norm())
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_what_is_not_trained_has_no_gradient() -> None:
    ours = network()
    use_own_gradients(ours)
    ours[1].weight.requires_grad_(False)
    kept = gradients(ours, CALLS["plain"], torch.float32)
    assert ours[1].weight.grad is None
    assert len(kept) == len(list(ours.parameters()))
    with torch.no_grad():
        assert not ours(torch.zeros(1, 3, 12, 12, device=DEVICE)).requires_grad


COMPILE = """
import json, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dr_pipeline.networks.depthwise import _sum_rows

def ptx(taps_y, taps_x, taps, pixels, block, ones, dtype="*bf16"):
    constants = {"TAPS_Y": taps_y, "TAPS_X": taps_x, "TAPS": taps, "PIXELS": pixels, "CHANNELS": block}
    constants |= {name: 1 for name in ones.split()}  # a launch makes a constant of it
    names = _sum_rows.arg_names
    pointers = {"input_ptr": dtype, "gradient_ptr": dtype, "sums_ptr": "*fp32"}
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in names}
    aligned = [*pointers, *({"channels"} - constants.keys())]
    hints = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    return compile(ASTSource(_sum_rows, signature, constants, hints), GPUTarget("cuda", 90, 32)).asm["ptx"]

json.dump({
    "7 x 7": ptx(7, 7, 8, 16, 64, "multiplier"), "3 x 3": ptx(3, 3, 4, 8, 128, "multiplier"),
    "1 x 1": ptx(1, 1, 1, 16, 64, "multiplier"), "7 x 7, two outputs": ptx(7, 7, 8, 16, 64, ""),
    "float32": ptx(3, 3, 4, 16, 64, "multiplier", "*fp32"), "a channel": ptx(3, 3, 4, 1, 1, "multiplier channels"),
}, sys.stdout)
"""


def test_the_kernel_compiles_for_a_gpu_and_reads_16_bytes_at_once(tmp_path: Path) -> None:
    codes = compiled_by(COMPILE, tmp_path)
    assert len(codes) == 6
    for name in ("7 x 7", "3 x 3", "1 x 1", "float32"):
        loads = re.findall(r"ld\.global\S*", codes[name])
        assert loads, name
        assert all(load.endswith(".v4.b32") for load in loads), f"{name}: {loads}"
    assert any(load.endswith(".v4.b32") for load in re.findall(r"ld\.global\S*", codes["7 x 7, two outputs"]))
