"""What is counted of a network without weights is what its arithmetic says, and what torch counts when it runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dr_pipeline.demo.captioner import ConvCoCa, SceneCaptioner
from dr_pipeline.errors import ModelError
from dr_pipeline.models.coca import CocaCaptioner
from dr_pipeline.models.coca_decoder import CocaDecoder
from dr_pipeline.networks.architecture import build, read_architecture
from dr_pipeline.networks.cost import Cost
from dr_pipeline.networks.counting import count_or_none, count_towers, network_cost
from dr_pipeline.networks.files import resource

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
SCENE_CAPTIONER = "package://dr_pipeline.demo/scene_coca.json"


def write(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "model.json"
    path.write_text(json.dumps({"model_cfg": config}))
    return str(path)


def product(rows: int, inputs: int, outputs: int) -> int:
    """Operations of a matrix product."""
    return 2 * rows * inputs * outputs


def transformer(tokens: int, width: int, layers: int) -> int:
    """Operations of blocks: four projections, a perceptron four times as wide, and attention of all to all."""
    block = product(tokens, width, 4 * width) + 2 * product(tokens, width, 4 * width)
    return layers * (block + 2 * product(tokens, width, tokens))


def test_a_clip_costs_what_its_arithmetic_says() -> None:
    cost = network_cost("ViT-L-14", "random")
    assert cost == Cost(
        427_616_513,
        # 256 patches of 14 × 14 pixels and a class token
        image_flops=product(256, 3 * 14 * 14, 1024) + transformer(257, 1024, layers=24) + product(1, 1024, 768),
        text_flops=transformer(77, 768, layers=12) + product(1, 768, 768),
        image_size=224,
        dim=768,
    )


def test_a_coca_costs_what_its_arithmetic_says_as_a_teacher_and_as_a_captioner() -> None:
    queries, image_tokens, written = 256, 255, 38  # the first query gives the embedding; half of 76 tokens are written
    embedded = product(49, 3 * 32 * 32, 768) + transformer(50, 768, layers=12)
    embedded += product(queries, 512, 512) + 2 * product(50, 768, 512)  # the pooler's queries, keys and values
    embedded += 2 * product(queries, 512, 50) + product(queries, 512, 512)  # its attention, and the way out
    embedded += product(1, 512, 512)
    teacher = network_cost("coca_ViT-B-32", "random")
    assert (teacher.parameters, teacher.image_flops, teacher.token_flops) == (253_560_065, embedded, 0)
    assert teacher.text_flops == transformer(77, 512, layers=12) + product(1, 512, 512)

    cost = CocaCaptioner.cost("coca_ViT-B-32", "random")
    assert cost.image_flops == embedded + 12 * 2 * product(image_tokens, 512, 512)  # keys and values for every layer
    block = product(1, 512, 12 * 512)
    token = (12 + 12) * (block + 2 * product(1, 512, written))  # of the text tower, and of the decoder's own
    token += 12 * (block - 2 * product(1, 512, 512) + 2 * product(1, 512, image_tokens))  # and to the image
    token += product(1, 512, 49_408)
    assert (cost.parameters, cost.text_flops, cost.token_flops) == (253_560_065, 0, token)


def counted_at_work(module: torch.nn.Module, size: int, written: int) -> tuple[int, int]:
    """Operations of an image, and of the token at place `written`, by a decoder that runs."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the counter knows no other on a CPU
        decoder = CocaDecoder(module, num_captions=1, num_positions=written)
        with FlopCounterMode(display=False) as image:
            decoder.begin(torch.zeros(1, 3, size, size))
        for _ in range(written - 1):
            decoder.step(torch.zeros(1, 1, dtype=torch.int64))
        with FlopCounterMode(display=False) as token:
            decoder.step(torch.zeros(1, 1, dtype=torch.int64))
    return image.get_total_flops(), token.get_total_flops()


def test_a_captioner_is_counted_as_it_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write(tmp_path, COCA)
    module = build(read_architecture(model, "random")).eval().requires_grad_(False)
    cost = CocaCaptioner.cost(model, "random")
    assert cost.parameters == sum(parameter.numel() for parameter in module.parameters())
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    assert (cost.image_flops, cost.token_flops) == counted_at_work(module, size=48, written=6)


def test_the_demo_s_captioner_is_counted_as_it_decodes() -> None:
    config = json.loads(resource(SCENE_CAPTIONER).read_text())
    module = ConvCoCa(**config["model_cfg"])
    cost = SceneCaptioner.cost(SCENE_CAPTIONER, "unread")
    written = module.text.context_length // 2
    at_work = counted_at_work(module.eval().requires_grad_(False), config["preprocess_cfg"]["size"], written)
    assert (cost.image_flops, cost.token_flops) == at_work


@pytest.mark.parametrize(
    "config",
    [CLIP, {**CLIP, "vision_cfg": {**VISION, "mlp_ratio": 3.1}}, {**CLIP, "vision_cfg": POOLED, "quick_gelu": True}],
)
def test_a_clip_is_counted_as_it_embeds(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write(tmp_path, config)
    module = build(read_architecture(model, "random")).eval().requires_grad_(False)
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as image:
            module.encode_image(torch.zeros(1, 3, 48, 48))
        with FlopCounterMode(display=False) as text:
            module.encode_text(torch.zeros(1, 12, dtype=torch.int64))
    cost = network_cost(model, "random")
    assert (cost.image_flops, cost.text_flops) == (image.get_total_flops(), text.get_total_flops())


def test_other_towers_are_counted() -> None:
    cost = network_cost("RN50", "random")
    assert cost.parameters == 102_007_137
    assert 10e9 < cost.image_flops < 14e9  # CLIP's table 18 has 6.1 G multiplications for the ResNet-50


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

    assert count_or_none(count_towers, Peeking(), architecture) is None
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
