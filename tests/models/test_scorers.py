"""Scorers by a teacher: heads of any depth, and what is no head or no teacher for it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dr_pipeline.config.cards import ScorerCard
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.cards import card_cost
from dr_pipeline.models.load import load_scorer
from dr_pipeline.models.precision import load_ready_scorer
from dr_pipeline.models.protocol import OwnPrecision
from dr_pipeline.models.scorers import AestheticScorer, SimilarityScorer

CPU = torch.device("cpu")
CLIP = {
    "model": "package://dr_pipeline.demo/scene_clip_a.json",
    "weights": "package://dr_pipeline.demo/scene_clip_a.safetensors",
    "tokenizer": "dr_pipeline.demo.tokenizer:WordTokenizer",
    "context_length": 34,
}
LAION = {f"layers.{place}": size for place, size in {0: (1024, 64), 2: (128, 1024), 4: (64, 128), 6: (16, 64)}.items()}
"""LAION's predictor has dropout between its layers, and the last two side by side: 0, 2, 4, 6 and 7."""
PLUGIN = """
import torch
from dr_pipeline.models.protocol import TeacherSpec

class Pixels:
    def __init__(self, device):
        self.spec = TeacherSpec(dim=3, image_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    def encode_images(self, images_BCHW):
        return images_BCHW.mean((2, 3)) + 2.0

class Letters:
    def __init__(self, device):
        self.spec = TeacherSpec(dim=3)
    def encode_texts(self, texts):
        return torch.ones(len(texts), 3)
"""


def card(kind: str, **options: Any) -> ScorerCard:
    return ScorerCard(name="scorer", use=f"dr_pipeline.models.scorers:{kind}", options=options, digests={})


def head(path: Path, sizes: dict[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (outputs, inputs) in sizes.items():
        tensors[f"{name}.weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        tensors[f"{name}.bias"] = torch.randn(outputs, generator=generator)
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_head_is_its_layers_in_the_order_of_their_numbers(activation: str, tmp_path: Path) -> None:
    sizes = {**LAION, "layers.7": (8, 16), "layers.10": (1, 8)}
    tensors = head(tmp_path / "head.safetensors", sizes)
    scorer = AestheticScorer(CPU, str(tmp_path / "head.safetensors"), activation, **CLIP)
    images_BCHW = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        scores_B = scorer.score_images(images_BCHW)
        x_BD = torch.nn.functional.normalize(scorer._teacher.encode_images(images_BCHW), dim=1)
    for name in sizes:
        x_BD = x_BD.relu() if activation == "relu" and name != "layers.0" else x_BD
        x_BD = x_BD @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
    torch.testing.assert_close(scores_B, x_BD[:, 0], atol=1e-5, rtol=1e-4)
    assert scores_B.std() > 1e-4


@pytest.mark.parametrize(
    "sizes",
    [
        {"layers.0": (1, 63)},
        {"layers.0": (8, 64)},
        {"layers.0": (8, 64), "layers.2": (1, 9)},
        {"layers.0": (1, 64), "norm": (2, 2)},
        {},
    ],
)
def test_a_file_of_other_layers_is_no_head(sizes: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    head(tmp_path / "head.safetensors", sizes)
    with pytest.raises(ModelError, match=r"options.head: .* is no chain of linear layers .* from 64 inputs to one"):
        AestheticScorer(CPU, str(tmp_path / "head.safetensors"), **CLIP)


def test_a_plugin_s_teacher_scores_too(tmp_path: Path) -> None:
    (tmp_path / "scoring_lab.py").write_text(PLUGIN)
    head(tmp_path / "head.safetensors", {"linear": (1, 3)})
    aesthetic = card("AestheticScorer", teacher="scoring_lab:Pixels", head=str(tmp_path / "head.safetensors"))
    assert load_scorer(aesthetic, CPU, [str(tmp_path)]).spec.image_size == 8
    for teacher, problem in (("Pixels", "does not encode texts"), ("Letters", "does not encode images")):
        with pytest.raises(ModelError, match=rf"card scorer: options.teacher: scoring_lab:{teacher} {problem}"):
            load_scorer(card("SimilarityScorer", teacher=f"scoring_lab:{teacher}"), CPU, [str(tmp_path)])


def test_wrong_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"options.wieghts: .* has no such option; did you mean weights\?"):
        load_scorer(card("SimilarityScorer", **CLIP, wieghts="x"), CPU)
    with pytest.raises(ModelError, match=r"options.activation: 'gelu' is neither none nor relu"):
        load_scorer(card("AestheticScorer", head="x", activation="gelu", **CLIP), CPU)


def test_it_costs_what_its_teacher_does_and_is_rounded_as_that() -> None:
    cost = card_cost(card("SimilarityScorer", **CLIP))
    assert cost is not None
    assert (cost.dim, cost.image_size) == (64, 64)
    assert cost.image_flops > cost.text_flops > 0
    scorer = SimilarityScorer(CPU, **CLIP)
    assert isinstance(scorer, OwnPrecision)
    rounded = load_ready_scorer(card("SimilarityScorer", **CLIP), CPU, "bfloat16")
    assert not rounded.needs_autocast
    images_BCHW = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    texts = ["a red square", "a blue circle", "a green star"]
    with torch.inference_mode():
        exact_B, rounded_B = scorer.score(images_BCHW, texts), rounded.scorer.score(images_BCHW, texts)
    assert 0 < (exact_B - rounded_B).abs().max() < 0.02
