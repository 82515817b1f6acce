"""Linear layers in float8 against the same layers in bfloat16."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn
from torch.nn import functional as F

from dr_pipeline.errors import ConfigError
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.networks.float8 import (
    Float8Attention,
    Float8Linear,
    check_float8,
    quantise_rows,
    to_float8,
)
from dr_pipeline.networks.quantise import quantise_on_device
from tests.gpu_code import compiled_by
from tests.networks.test_network import FAMILIES, OWN_WORDS, write_config

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BFLOAT16 = torch.bfloat16


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape))).to(BFLOAT16)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def test_a_row_is_its_quantised_values_times_its_scale_but_for_rounding() -> None:
    values_RI = noise(5, 64) * torch.tensor([1e-4, 1.0, 0.0, 1e4, 3.0]).to(BFLOAT16)[:, None]
    quantised_RI, scale_R1 = quantise_rows(values_RI)
    assert quantised_RI.dtype == torch.float8_e4m3fn
    assert scale_R1.dtype == torch.float32
    restored_RI = quantised_RI.float() * scale_R1
    assert not restored_RI[2].any(), "a row of zeros"
    errors_RI = (restored_RI - values_RI.float()).abs()
    step_RI = (values_RI.float().abs() / 16).maximum(scale_R1 * 2.0**-10)  # half a unit of 3 bits, or of the smallest
    assert bool((errors_RI <= 1.01 * step_RI).all())
    assert quantised_RI.float().abs().amax(dim=1).tolist() == [448, 448, 0, 448, 448]


def test_the_kernel_quantises_as_torch_does() -> None:
    """Values that e4m3 holds as they are: Triton's interpreter rounds others otherwise than a GPU."""
    held_I = torch.arange(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).to(BFLOAT16)
    values_RI = torch.stack([held_I, -held_I.flip(0), held_I * 2.0**-20, held_I * 0, held_I * 2.0**9]).to(DEVICE)
    values_RI = values_RI.repeat(1, 3)[:, :336]
    values_RI[:, 335] = values_RI.abs().amax(dim=1)
    ours, theirs = quantise_on_device(values_RI.T.contiguous().T, 448.0, 1e-12), quantise_rows(values_RI.cpu())
    assert torch.equal(ours[0].cpu().view(torch.uint8), theirs[0].view(torch.uint8))
    assert torch.equal(ours[1].cpu(), theirs[1])


COMPILE = """
import json, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dr_pipeline.networks.quantise import _quantise_row as kernel

pointers = {"values": "*bf16", "quantised": "*fp8e4nv", "scales": "*fp32"}
signature = pointers | {"width": "i32", "largest": "fp32", "smallest_scale": "fp32", "BLOCK": "constexpr"}
hints = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, "width")}
source = ASTSource(kernel, signature, {"BLOCK": 1024}, hints)
json.dump([compile(source, GPUTarget("cuda", arch, 32), {"num_warps": 4}).asm["ptx"] for arch in (89, 90)], sys.stdout)
"""


def test_the_kernel_compiles_for_gpus_that_have_float8_and_reads_16_bytes_at_once(tmp_path: Path) -> None:
    for code in compiled_by(COMPILE, tmp_path):
        assert code.count("ld.global.v4.b32") == 1
        assert "cvt.rn.satfinite.e4m3x2" in code
        assert code.count("div.rn.f32") == 2, "two a row, not one a value"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (3, 7, 48), (2, 3, 4, 48)])
def test_a_linear_layer_is_near_the_one_in_bfloat16(bias: bool, shape: tuple[int, ...]) -> None:
    layer = nn.Linear(48, 80, bias=bias, dtype=BFLOAT16).requires_grad_(False)
    inputs = noise(*shape)
    ours = Float8Linear(layer.weight, layer.bias)(inputs)
    assert ours.dtype == BFLOAT16
    assert ours.shape == (*shape[:-1], 80)
    assert 0 < relative_error(ours, layer(inputs)) < 0.06


def test_a_row_does_not_depend_on_its_batch() -> None:
    layer = Float8Linear(noise(80, 48), noise(80))
    inputs = noise(9, 48)
    inputs[4] *= 1000
    torch.testing.assert_close(layer(inputs)[:4], torch.cat([layer(row[None]) for row in inputs[:4]]))


@pytest.mark.parametrize("mask", ["none", "causal", "each head's"])
def test_attention_is_near_the_one_in_bfloat16(mask: str) -> None:
    block = ResidualAttentionBlock(64, 4).to(BFLOAT16).eval().requires_grad_(False)
    nn.init.normal_(block.attn.in_proj_weight, std=0.2)
    nn.init.normal_(block.attn.out_proj.weight, std=0.2)
    inputs_BLW = noise(3, 6, 64)
    causal_LL = torch.full((6, 6), -torch.inf, dtype=BFLOAT16).triu_(1)
    heads_NLL = causal_LL.expand(12, 6, 6) + noise(12, 1, 6)
    attn_mask = {"none": None, "causal": causal_LL, "each head's": heads_NLL}[mask]
    ours, weights = Float8Attention(block.attn)(inputs_BLW, inputs_BLW, inputs_BLW, attn_mask=attn_mask)
    theirs, _ = block.attn(inputs_BLW, inputs_BLW, inputs_BLW, attn_mask=attn_mask, need_weights=False)
    assert weights is None
    assert 0 < relative_error(ours, theirs) < 0.1


LEFT: dict[str, set[str]] = {
    "clip": set(),
    "siglip": {"text.text_projection"},
    "coca": {"visual.attn_pool.attn"},
    "resnet": {f"visual.attnpool.{name}_proj" for name in "qkvc"},
}


@pytest.mark.parametrize("family", LEFT)
def test_what_pools_and_projects_stays_in_bfloat16(tmp_path: Path, family: str) -> None:
    teacher: Any = OpenClipTeacher(CPU, write_config(tmp_path, family), "random", **OWN_WORDS)
    teacher.to_precision(BFLOAT16)
    teacher.to_float8()
    parts = dict(teacher._network.module.named_modules())
    left = {name for name, part in parts.items() if type(part) in (nn.Linear, nn.MultiheadAttention)}
    assert {name for name in left if not name.startswith("text_decoder")} == LEFT[family]
    num_layers = 2 if family == "resnet" else 4
    attentions = [part for part in parts.values() if isinstance(part, Float8Attention)]
    assert len(attentions) == num_layers
    assert sum(isinstance(part, Float8Linear) for part in parts.values()) == 4 * num_layers


def test_layers_of_odd_widths_stay_in_bfloat16(tmp_path: Path) -> None:
    config = {**FAMILIES["clip"], "text_cfg": {**FAMILIES["clip"]["text_cfg"], "width": 24, "heads": 2}}
    (tmp_path / "odd.json").write_text(json.dumps({"model_cfg": config}))
    teacher: Any = OpenClipTeacher(CPU, str(tmp_path / "odd.json"), "random", **OWN_WORDS)
    teacher.to_precision(BFLOAT16)
    before = teacher.encode_texts(["a dog"])
    teacher.to_float8()
    assert torch.equal(teacher.encode_texts(["a dog"]), before)
    assert any(isinstance(part, Float8Linear) for part in teacher._network.module.visual.modules())


def test_layers_that_are_not_called_are_left() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.called, self.multiplied = (nn.Linear(16, 16, dtype=BFLOAT16) for _ in range(2))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return F.linear(self.called(inputs), self.multiplied.weight, self.multiplied.bias)

    half = Half()
    to_float8(half, lambda: half(noise(1, 2, 16)))
    assert isinstance(half.called, Float8Linear)
    assert type(half.multiplied) is nn.Linear


def test_a_device_without_float8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_float8(CPU)

    def refuses(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9")

    monkeypatch.setattr(torch, "_scaled_mm", refuses)
    with pytest.raises(ConfigError) as caught:
        check_float8(CPU)
    assert str(caught.value) == (
        "workers.precision=float8: this cpu device does not multiply matrices of float8, for which a GPU needs CUDA "
        "capability 8.9 or more (torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or "
        "8.9): set workers.precision=bfloat16"
    )
