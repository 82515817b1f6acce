"""A student whose weights have fewer text positions than it takes, or another grid of image positions."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dr_pipeline.config.cards import CaptionerCard
from dr_pipeline.config.training import TrainJob
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.load import load_captioner
from dr_pipeline.networks.architecture import build, read_architecture
from dr_pipeline.networks.network import Network, load_network
from dr_pipeline.training.network import build_student, export
from tests.training.conftest import CLIP, COCA, WORDS

CPU = torch.device("cpu")
SHORT, LONG = 16, 41
SENTENCE = ["a red circle above a blue square"]
HOW = ["interpolate", "stretch", "extend"]


@pytest.fixture(params=[CLIP, COCA], ids=["clip", "coca"])
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Weights of a model of 16 tokens, whose architecture.json is beside them; positions are of trained size."""
    (tmp_path / "architecture.json").write_text(json.dumps({"model_cfg": request.param}))
    module = build(read_architecture(str(tmp_path / "architecture.json"), "random"))
    state = {name: 20 * value if "positional" in name else value for name, value in module.state_dict().items()}
    save_file(state, tmp_path / "short.safetensors")
    return tmp_path / "short.safetensors"


def student(weights: Path, **changes: Any) -> TrainJob:
    architecture = str(weights.parent / "architecture.json")
    return TrainJob.model_validate(
        {
            "name": "longer",
            "data": {"shards": "unused"},
            "student": {"architecture": architecture, "weights": str(weights), "tokenizer": WORDS, **changes},
            "schedule": {"steps": 1, "batch_size": 1, "warmup_steps": 0},
            "run": {"path": "unused"},
        }
    )


def lengthened(weights: Path, positions: str) -> Network:
    network = build_student(student(weights, context_length=LONG, positions=positions), CPU)
    network.module.eval()
    return network


def short(weights: Path) -> Network:
    return load_network(str(weights.parent / "architecture.json"), str(weights), CPU, tokenizer=WORDS)


def text_positions(module: Any) -> torch.Tensor:
    return getattr(module, "text", module).positional_embedding.detach()


def has_class_token(module: Any) -> bool:
    return getattr(getattr(module, "text", module), "cls_emb", None) is not None


@pytest.mark.parametrize("positions", HOW)
def test_a_long_text_runs_and_the_class_token_keeps_its_row(weights: Path, positions: str) -> None:
    network = lengthened(weights, positions)
    tokens_TL = network.tokenizer(["a red circle " * 20])
    assert tokens_TL.shape == (1, LONG)
    assert int((tokens_TL != 0).sum()) == LONG
    assert network.module.encode_text(tokens_TL).isfinite().all()
    before_PW, after_QW = text_positions(short(weights).module), text_positions(network.module)
    if has_class_token(network.module):
        assert torch.equal(before_PW[-1], after_QW[-1])
        logits_TLV = network.module(torch.zeros(1, 3, 32, 32), tokens_TL)["logits"]
        assert logits_TLV.shape[1] == LONG - 1
        assert logits_TLV.isfinite().all()


def test_extended_positions_change_no_short_text(weights: Path) -> None:
    before, after = short(weights), lengthened(weights, "extend")
    short_TL, long_TL = before.tokenizer(SENTENCE), after.tokenizer(SENTENCE)
    assert torch.equal(short_TL, long_TL[:, :SHORT])
    text_of_both = [one.module.encode_text(tokens) for one, tokens in ((before, short_TL), (after, long_TL))]
    torch.testing.assert_close(*text_of_both)
    if has_class_token(after.module):
        image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        full_TL = torch.randint(1, 300, (2, SHORT), generator=torch.Generator().manual_seed(1))
        logits = before.module(image.expand(2, -1, -1, -1), full_TL)["logits"]
        longer_TL = torch.nn.functional.pad(full_TL, (0, LONG - SHORT))
        of_longer = after.module(image.expand(2, -1, -1, -1), longer_TL)["logits"]
        torch.testing.assert_close(of_longer[:, : SHORT - 1], logits)


def test_interpolated_positions_are_a_line_between_neighbours(weights: Path) -> None:
    before_PW, after_QW = (
        text_positions(short(weights).module),
        text_positions(lengthened(weights, "interpolate").module),
    )
    place = (30 + 0.5) * SHORT / LONG - 0.5  # 11.40
    expected_W = before_PW[11].lerp(before_PW[12], place - 11)
    torch.testing.assert_close(after_QW[30], expected_W)
    torch.testing.assert_close(after_QW[0], before_PW[0])


def test_stretched_positions_begin_as_they_were(tmp_path: Path) -> None:
    network = deepcopy(CLIP)
    network["text_cfg"] = {**CLIP["text_cfg"], "context_length": 30}
    (tmp_path / "architecture.json").write_text(json.dumps({"model_cfg": network}))
    save_file(
        build(read_architecture(str(tmp_path / "architecture.json"), "random")).state_dict(), tmp_path / "w.safetensors"
    )
    before_PW = text_positions(short(tmp_path / "w.safetensors").module)
    after_QW = text_positions(lengthened(tmp_path / "w.safetensors", "stretch").module)
    assert torch.equal(before_PW[:20], after_QW[:20])
    torch.testing.assert_close(after_QW[-1], before_PW[-1])
    assert not torch.equal(before_PW[25], after_QW[25])


@pytest.mark.parametrize("positions", HOW)
def test_the_exported_model_takes_long_texts(weights: Path, tmp_path: Path, positions: str) -> None:
    network = lengthened(weights, positions)
    export(network, network.module.state_dict(), "bicubic", tmp_path / "model")
    model, file = (str(tmp_path / "model" / name) for name in ("open_clip_config.json", "open_clip_model.safetensors"))
    again = load_network(model, file, CPU, tokenizer=WORDS)
    assert again.architecture.context_length == LONG
    assert torch.equal(text_positions(again.module), text_positions(network.module))
    if has_class_token(network.module):
        options = {"model": model, "weights": file, "tokenizer": WORDS}
        card = CaptionerCard(name="long", use="dr_pipeline.models.coca:CocaCaptioner", options=options)
        load_captioner(card, CPU)


def test_longer_texts_need_to_be_asked_for(weights: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"context_length is 41; .* takes 16: set .* student\.positions to interpolate"
    ):
        build_student(student(weights, context_length=LONG), CPU)
    tree = json.loads((weights.parent / "architecture.json").read_text())
    for tower in tree["model_cfg"].keys() & {"text_cfg", "multimodal_cfg"}:
        tree["model_cfg"][tower]["context_length"] = LONG
    (weights.parent / "architecture.json").write_text(json.dumps(tree))
    with pytest.raises(ModelError, match=r"text positions, the architecture \d+: set student\.positions"):
        build_student(student(weights), CPU)
    assert build_student(student(weights, positions="extend"), CPU).tokenizer(SENTENCE).shape == (1, LONG)


def test_another_models_weights_are_named_all_the_same(weights: Path) -> None:
    state = load_file(weights)
    name = next(name for name in state if name.endswith("positional_embedding") and "visual" not in name)
    save_file({**state, name: state[name][:, :8].contiguous()}, weights)
    with pytest.raises(ModelError, match=f"checkpoint of another model.*{name} is"):
        build_student(student(weights, context_length=LONG, positions="extend"), CPU)


def test_the_grid_of_image_positions_is_resized(weights: Path) -> None:
    network = build_student(student(weights, image_size=48), CPU)
    assert network.module.visual.positional_embedding.shape[0] == 6 * 6 + 1
    network.module.encode_image(torch.zeros(1, 3, 48, 48))
    state = load_file(weights)
    save_file({**state, "visual.positional_embedding": state["visual.positional_embedding"][:8]}, weights)
    with pytest.raises(ModelError, match=r"visual\.positional_embedding is \[8, 32\]"):
        build_student(student(weights, image_size=48), CPU)
