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
from dr_pipeline.networks.counting import count_architecture, counted

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
        "print(OpenClipTeacher.cost(model='ViT-L-14', weights='random'))\n"
        "print(CocaCaptioner.cost(model='coca_ViT-L-14', weights='random').parameters)\n"
        "print({'torch', 'open_clip', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = Cost(427_616_513, 162_025_537_536, 13_299_683_328, image_size=224, dim=768)
    assert done.stdout == f"{expected}\n638450177\nset()\n"


def test_what_is_no_architecture_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[]")
    for model in ("ViT-L-15", str(tmp_path / "bad.json")):
        with pytest.raises(ModelError, match=model):
            network_cost(model, "random")


HUGGING_FACE = {"hf_tokenizer_name": "unused", "hf_pooler_type": "mean_pooler", "context_length": 12}


@pytest.fixture
def bert(tmp_path: Path) -> str:
    """The folder of a small text tower of transformers."""
    from transformers import BertConfig

    BertConfig(
        vocab_size=500,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    ).save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


def test_a_text_tower_of_hugging_face_is_counted(bert: str, tmp_path: Path) -> None:
    text = {**HUGGING_FACE, "hf_model_name": bert, "hf_proj_type": "linear"}
    model = write(tmp_path, {**CLIP, "text_cfg": text})
    module = build(read_architecture(model, "random")).eval().requires_grad_(False)
    module.text.transformer.set_attn_implementation("eager")  # the counter knows no other on a CPU
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.encode_text(torch.tensor([[*range(1, 12), 0]]))
    cost = network_cost(model, "random")
    assert cost.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert cost.text_flops == counter.get_total_flops()
    assert (cost.image_size, cost.dim) == (48, 24)


def test_a_forward_pass_that_fails_is_told_with_its_model(bert: str, tmp_path: Path) -> None:
    text = {**HUGGING_FACE, "hf_model_name": bert, "hf_proj_type": None}  # 32 wide, and nothing that makes it 24
    model = write(tmp_path, {**CLIP, "text_cfg": text})
    with pytest.raises(ModelError, match=f"model {model}: its forward pass fails: .*has no attribute 'proj'"):
        network_cost(model, "random")


def test_what_looks_at_values_is_of_unknown_cost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    architecture = read_architecture(write(tmp_path, CLIP), "random")

    class Peeking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = torch.nn.Identity()
            self.visual.image_size = 48

        def encode_image(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            return images_BCHW.flatten(1) if images_BCHW.sum().item() else images_BCHW

    assert counted(Peeking(), architecture) is None
    assert "its operations cannot be counted without its weights" in caplog.text


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("ViT-B-32", {"weights": "opena"}, "no such tag for this model; did you mean openai"),
        ("ViT-B-32", {"weights": "absent.pt"}, "model ViT-B-32, weights: no file at absent.pt"),
        ("ViT-B-32", {"weights": "package://dr_pipeline.demo/absent.safetensors"}, "no such file"),
        ("ViT-B-32-quickgelu", {"weights": "laion2b_e16"}, "trained as ViT-B-32; set options.model to that"),
        ("ViT-B-32", {"weights": "random", "context_length": 78}, "context_length is 78; its text tower takes 77"),
    ],
)
def test_what_its_construction_would_miss_is_named(model: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        network_cost(model, **options)
