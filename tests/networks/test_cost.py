"""What is computed of an architecture is what torch counts when it runs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dr_pipeline.errors import ModelError
from dr_pipeline.models.decode import CocaDecoder
from dr_pipeline.networks.architecture import build, read_architecture
from dr_pipeline.networks.cost import Cost, network_cost
from dr_pipeline.networks.counting import count_architecture

VISION = {"image_size": 48, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16}
TEXT = {"context_length": 12, "vocab_size": 500, "width": 32, "heads": 2, "layers": 2}
CLIP = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
POOLED = {**VISION, "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 10, "output_tokens": True}
COCA = {
    "embed_dim": 32,
    "vision_cfg": POOLED,
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "layers": 3, "attn_pooler_heads": 4},
    "custom_text": True,
}


def write(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "model.json"
    path.write_text(json.dumps({"model_cfg": config}))
    return str(path)


@pytest.mark.parametrize(
    "config",
    [CLIP, {**CLIP, "vision_cfg": {**VISION, "mlp_ratio": 3.0}}, {**CLIP, "vision_cfg": POOLED, "quick_gelu": True}],
)
def test_a_clip(config: dict[str, Any], tmp_path: Path) -> None:
    model = write(tmp_path, config)
    assert network_cost(model, "random") == count_architecture(model, "random")


def test_a_coca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write(tmp_path, COCA)
    module = build(read_architecture(model, "random")).eval().requires_grad_(False)
    cost = network_cost(model, "random")
    assert cost.parameters == sum(parameter.numel() for parameter in module.parameters())
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the counter knows no other on a CPU
        with FlopCounterMode(display=False) as image:
            decoder = CocaDecoder(module, torch.zeros(1, 3, 48, 48), num_captions=1, max_tokens=12)
        for _ in range(5):
            decoder.step(torch.zeros(1, 1, dtype=torch.int64))
        with FlopCounterMode(display=False) as token:
            decoder.step(torch.zeros(1, 1, dtype=torch.int64))
    assert (cost.image_flops, cost.token_flops) == (image.get_total_flops(), token.get_total_flops())


def test_other_towers_are_counted() -> None:
    cost = network_cost("RN50", "random")
    assert cost == count_architecture("RN50", "random")
    assert cost.parameters == 102_007_137
    assert 10e9 < cost.image_flops < 14e9  # CLIP's table 18 has 6.1 G multiplications for the ResNet-50


def test_a_named_transformer_needs_no_torch() -> None:
    code = (
        "import sys\nfrom dr_pipeline.models.open_clip import OpenClipTeacher\n"
        "from dr_pipeline.models.coca import CocaCaptioner\n"
        "print(OpenClipTeacher.cost(model='ViT-L-14', weights='x'))\n"
        "print(CocaCaptioner.cost(model='coca_ViT-L-14', weights='x').parameters)\n"
        "print({'torch', 'open_clip', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = Cost(parameters=427_616_513, image_flops=162_025_537_536, text_flops=13_299_683_328)
    assert done.stdout == f"{expected}\n638450177\nset()\n"


def test_what_is_no_architecture_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[]")
    for model in ("ViT-L-15", str(tmp_path / "bad.json")):
        with pytest.raises(ModelError, match=model):
            network_cost(model, "random")
