"""Models in a job's precision: weights rounded once, autocast where a model cannot, float8 where it is near enough."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dr_pipeline.config.cards import CaptionerCard, TeacherCard
from dr_pipeline.demo.painting import paint
from dr_pipeline.demo.scenes import draw_truth
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.coca import CocaCaptioner
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_teacher
from dr_pipeline.models.precision import ReadyTeacher, load_captioners, load_ensemble, load_ready, load_ready_captioner
from dr_pipeline.networks.device import Precision
from dr_pipeline.networks.images import prepare
from dr_pipeline.views.seeding import Stream
from tests.demo_job import demo_job
from tests.networks.test_network import FAMILIES, PREPROCESS

CPU = torch.device("cpu")
TEXTS = ["a red circle", "", "two blue squares left of a large striped circle on a green background", "ein Hund 🐶"]
TEXT = FAMILIES["clip"]["text_cfg"]
TIMM: dict[str, dict[str, Any]] = {
    "mobileclip2_s0": {"timm_model_name": "fastvit_mci0", "timm_pool": "avg", "timm_proj": None, "image_size": 64},
    "convnext": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
    "vit": {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear", "image_size": 160},
    "eva": {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": None, "image_size": 224},
}
ROBERTA = {
    "model_type": "roberta", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "vocab_size": TEXT["vocab_size"], "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
"""The configuration of a text tower of transformers."""
HF_TEXT = {
    "hf_model_name": "roberta", "hf_tokenizer_name": "roberta", "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler",
    "context_length": 20, "vocab_size": TEXT["vocab_size"],
}  # fmt: skip
ARCHITECTURES = (
    FAMILIES
    | {"hf": {**FAMILIES["clip"], "text_cfg": HF_TEXT}}
    | {
        name: {"embed_dim": 24, "custom_text": True, "vision_cfg": vision, "text_cfg": TEXT}
        for name, vision in TIMM.items()
    }
)
PLUGIN = """
import torch
from torch import nn
from dr_pipeline.models.protocol import ImageSpec, TeacherSpec

class Plain:
    def __init__(self, device):
        torch.manual_seed(0)
        self.spec = TeacherSpec(image_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=32)
        self.layer = nn.Linear(768, 32).to(device).requires_grad_(False)
        self.seen = []
    def encode_images(self, images_BCHW):
        self.seen.append((self.layer.weight.dtype, torch.is_autocast_enabled(images_BCHW.device.type)))
        return self.layer(images_BCHW.flatten(1).to(self.layer.weight.dtype))

class OptsIn(Plain):
    def to_precision(self, dtype):
        self.seen.append("to_precision")
        self.layer.to(dtype)

class CannotRound(Plain):
    def to_precision(self, dtype):
        raise RuntimeError("no kernel for bfloat16 here")

class RoundsWrongly(Plain):
    def to_precision(self, dtype):
        self.layer.to(dtype).weight[:, ::2] = 0

class RoundsToNothing(Plain):
    def to_precision(self, dtype):
        self.layer.weight.fill_(float("nan"))

class FailsWhenRounded(Plain):
    def to_precision(self, dtype):
        self.layer.to(torch.float64)
    def encode_images(self, images_BCHW):
        return self.layer(images_BCHW.flatten(1))

class Float8(OptsIn):
    step = 16
    def to_float8(self):
        self.seen.append("to_float8")
        self.layer.weight.copy_((self.layer.weight * 100 * self.step).round() / (100 * self.step))

class FailsInFloat8(OptsIn):
    def to_float8(self):
        raise RuntimeError("no such product")

class Compiles(OptsIn):
    def compile_towers(self, image_batch, text_batch):
        self.seen.append((image_batch, text_batch, torch.is_autocast_enabled("cpu")))

class CoarseFloat8(Float8):
    step = 0.2

class Words:
    def __init__(self, device):
        self.spec = ImageSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    def caption(self, images_BCHW, streams, sampling):
        return [["a dog" for _ in captions] for captions in streams]

class RoundedWords(Words):
    def to_precision(self, dtype):
        self.dtype = dtype

class WordsThatCannot(Words):
    def to_precision(self, dtype):
        raise RuntimeError("no kernel")
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_precision", raising=False)
    (tmp_path / "my_precision.py").write_text(PLUGIN)
    return str(tmp_path)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with the text tower of transformers.

    It has a name without a path: random weights follow from an architecture's config, and a test's folder is another
    one in every run.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roberta").mkdir()
    (tmp_path / "roberta/config.json").write_text(json.dumps(ROBERTA))


def card_of(name: str) -> TeacherCard:
    Path(f"{name}.json").write_text(json.dumps({"model_cfg": ARCHITECTURES[name], "preprocess_cfg": PREPROCESS}))
    options = {
        "model": f"{name}.json",
        "weights": "random",
        "tokenizer": "dr_pipeline.demo.tokenizer:WordTokenizer",
    }
    return TeacherCard(name=name, use="dr_pipeline.models.open_clip:OpenClipTeacher", options=options)


def ready(name: str, plugin: str, precision: Precision) -> ReadyTeacher:
    return load_ready(TeacherCard(name="mine", use=f"my_precision:{name}"), CPU, precision, [plugin])


def views(size: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(size // 8, 1).repeat(size // 8, 2)


def farthest(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest 1 - cosine."""
    return max(float((1 - (ours[name].astype(float) * theirs[name]).sum(1)).max()) for name in theirs)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_of_every_family_are_rounded_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    card = card_of(name)
    exact = Ensemble([(name, load_teacher(card, CPU))], CPU, "float32")
    with caplog.at_level(logging.WARNING, "dr_pipeline.models.precision"):
        ((_, teacher, needs_autocast),) = [load_ready(card, CPU, "bfloat16")]
    assert not needs_autocast, caplog.text
    module = teacher._network.module  # type: ignore[union-attr]
    norms = [part for part in module.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    of_norms = {id(parameter) for part in norms for parameter in part.parameters()}
    assert {one.dtype for one in module.parameters() if id(one) not in of_norms} == {torch.bfloat16}
    assert all(tensor.dtype != torch.bfloat16 for part in norms for tensor in part.state_dict().values())
    assert bool(norms) == (name in ("resnet", "mobileclip2_s0"))
    rounded = Ensemble([(name, teacher)], CPU, "bfloat16", {name})
    images = torch.zeros(2, 3, teacher.spec.image_size or 0, teacher.spec.image_size or 0)
    with torch.inference_mode():
        assert teacher.encode_images(images).dtype == torch.float32  # type: ignore[union-attr]
        assert teacher.encode_texts(TEXTS).dtype == torch.float32  # type: ignore[union-attr]
    pixels = views(64)
    assert 1e-8 < farthest(rounded.embed_images(pixels), exact.embed_images(pixels)) < 1e-3
    assert 1e-8 < farthest(rounded.embed_texts(TEXTS), exact.embed_texts(TEXTS)) < 1e-3


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_float32_is_untouched(precision: Precision) -> None:
    card = card_of("clip")
    plain = Ensemble([("clip", load_teacher(card, CPU))], CPU, "float32")
    ensemble, (completed,) = load_ensemble([card], CPU, precision)
    assert completed.dim == 24
    assert completed.float8_error is None
    np.testing.assert_array_equal(ensemble.embed_images(views(32))["clip"], plain.embed_images(views(32))["clip"])
    np.testing.assert_array_equal(ensemble.embed_texts(TEXTS)["clip"], plain.embed_texts(TEXTS)["clip"])


def test_the_demos_teachers_are_as_near_to_float32_as_under_autocast() -> None:
    job = demo_job("none", "none")
    plain = [(card.name, load_teacher(card, CPU)) for card in job.teachers]
    exact, cast = Ensemble(plain, CPU, "float32"), Ensemble(plain, CPU, "bfloat16")
    rounded, _ = load_ensemble(job.teachers, CPU, "bfloat16")
    pixels = views(96)
    by_weights = farthest(rounded.embed_images(pixels), exact.embed_images(pixels))
    assert by_weights < 3 * farthest(cast.embed_images(pixels), exact.embed_images(pixels))
    by_weights = farthest(rounded.embed_texts(TEXTS), exact.embed_texts(TEXTS))
    assert by_weights < 3 * farthest(cast.embed_texts(TEXTS), exact.embed_texts(TEXTS))


def test_a_plugin_runs_under_autocast_as_before(plugin: str) -> None:
    card = TeacherCard(name="mine", use="my_precision:Plain")
    ensemble, _ = load_ensemble([card], CPU, "bfloat16", [plugin])
    teacher: Any = ensemble._of_images["mine"]
    assert teacher.seen == [(torch.float32, False)], "the first try"
    ensemble.embed_images(views(16))
    assert teacher.seen[1:] == [(torch.float32, True)]
    assert ready("OptsIn", plugin, "float32").teacher.seen == [(torch.float32, False)]  # type: ignore[union-attr]


def test_a_plugin_may_round_its_weights_itself(plugin: str) -> None:
    ensemble, _ = load_ensemble([TeacherCard(name="mine", use="my_precision:OptsIn")], CPU, "bfloat16", [plugin])
    teacher: Any = ensemble._of_images["mine"]
    assert teacher.seen.count("to_precision") == 1
    before = len(teacher.seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        column = ensemble.embed_images(views(16))["mine"]
    assert teacher.seen[before:] == [(torch.bfloat16, False)]
    assert column.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CannotRound", "RuntimeError: no kernel for bfloat16 here"),
        ("RoundsWrongly", "ModelError: encode_images is then 0."),
        ("RoundsToNothing", "ModelError: encode_images is then nan from float32, of 0.001 that are allowed"),
        ("FailsWhenRounded", "RuntimeError: "),
    ],
)
def test_a_teacher_that_cannot_be_rounded_runs_under_autocast(
    name: str, said: str, plugin: str, caplog: pytest.LogCaptureFixture
) -> None:
    made, plain = (ready(each, plugin, "bfloat16") for each in (name, "Plain"))
    (record,) = (record for record in caplog.records if "autocast" in record.getMessage())
    expected = "teacher mine runs under autocast, since its weights cannot be rounded to bfloat16: " + said
    assert record.getMessage().startswith(expected)
    assert made.needs_autocast
    columns = [Ensemble([("mine", one.teacher)], CPU, "bfloat16").embed_images(views(16)) for one in (made, plain)]
    np.testing.assert_array_equal(columns[0]["mine"], columns[1]["mine"])


def test_teachers_compile_in_the_context_in_which_they_run(plugin: str) -> None:
    cards = [TeacherCard(name=name, use=f"my_precision:{name}") for name in ("Compiles", "Plain")]
    ensemble, _ = load_ensemble(cards, CPU, "bfloat16", [plugin])
    ensemble.compile(12, 256)
    teacher: Any = ensemble._of_images["Compiles"]
    assert teacher.seen[-1] == (12, 256, False)


def test_float8_is_measured_and_recorded(plugin: str) -> None:
    made = ready("Float8", plugin, "float8")
    assert made.teacher.seen.count("to_float8") == 1  # type: ignore[union-attr]
    error = made.card.float8_error
    assert error is not None
    assert 0 < error.mean <= error.worst < 0.05
    assert made.card.identity() == TeacherCard(name="mine", use="my_precision:Float8").identity()
    assert ready("OptsIn", plugin, "float8").card.float8_error is None
    assert load_ready(made.card, CPU, "bfloat16", [plugin]).card.float8_error is None
    assert ready("Plain", plugin, "float8").needs_autocast


@pytest.mark.parametrize("name", ["clip", "siglip", "coca", "resnet", "vit", "hf"])
def test_families_run_in_float8(name: str) -> None:
    card = card_of(name)
    exact = Ensemble([(name, load_teacher(card, CPU))], CPU, "float32")
    ensemble, (completed,) = load_ensemble([card], CPU, "float8")
    assert completed.float8_error is not None
    assert 1e-4 < completed.float8_error.worst < 0.05
    again = load_ready(card, CPU, "float8").card.float8_error
    assert again == completed.float8_error, "measured on the same images and texts"
    pixels = views(64)
    assert farthest(ensemble.embed_images(pixels), exact.embed_images(pixels)) < 0.05
    assert 1e-5 < farthest(ensemble.embed_texts(TEXTS), exact.embed_texts(TEXTS)) < 0.05


def test_the_demos_teachers_in_float8_are_near() -> None:
    _, cards = load_ensemble(demo_job("none", "none").teachers, CPU, "float8")
    for card in cards:
        assert card.float8_error is not None
        assert 0 < card.float8_error.mean < 0.003


def test_a_teacher_that_float8_changes_too_much_is_refused(plugin: str) -> None:
    with pytest.raises(ModelError) as caught:
        ready("CoarseFloat8", plugin, "float8")
    message = str(caught.value)
    assert message.startswith("teacher mine: in float8 its embeddings are 0.")
    assert "(1 - cosine); allowed are 0.01 and 0.05: set workers.precision=bfloat16" in message


def test_a_teacher_that_fails_in_float8_is_refused(plugin: str) -> None:
    with pytest.raises(ModelError) as caught:
        ready("FailsInFloat8", plugin, "float8")
    said = "teacher mine fails in float8: RuntimeError: no such product: set workers.precision=bfloat16"
    assert str(caught.value) == said


def test_a_device_without_float8_is_refused_before_a_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_scaled_mm")
    with pytest.raises(ConfigError, match=r"workers\.precision=float8: this cpu device does not multiply"):
        load_ensemble([TeacherCard(name="none", use="nowhere:None")], CPU, "float8")


@pytest.mark.parametrize("precision", ["bfloat16", "float8"])
def test_the_demos_captioner_writes_the_same_captions_with_rounded_weights(precision: Precision) -> None:
    (card,) = demo_job("none", "none").captioners
    exact, rounded = (load_ready_captioner(card, CPU, each) for each in ("float32", precision))
    assert isinstance(rounded.captioner, CocaCaptioner)
    assert not rounded.needs_autocast
    assert rounded.captioner._model.text_decoder.text_projection.dtype == torch.bfloat16
    scenes = [Stream(3, "view", index) for index in range(24)]
    pixels_BHWC = np.stack([np.asarray(paint(draw_truth(scene), 64, 64, scene)) for scene in scenes])
    images_BCHW = prepare(torch.from_numpy(pixels_BHWC), exact.captioner.spec)
    written = []
    for one in (rounded, exact):
        streams = [[Stream(1, "caption", image)] for image in range(24)]
        with torch.inference_mode():
            written.append(one.captioner.caption(images_BCHW, streams, card.sampling))
    assert sum(ours == theirs for ours, theirs in zip(*written, strict=True)) >= 20


@pytest.mark.parametrize(("name", "cast"), [("Words", True), ("RoundedWords", False), ("WordsThatCannot", True)])
def test_a_captioner_of_ones_own(name: str, cast: bool, plugin: str, caplog: pytest.LogCaptureFixture) -> None:
    made = load_ready_captioner(CaptionerCard(name="mine", use=f"my_precision:{name}"), CPU, "bfloat16", [plugin])
    assert made.needs_autocast == cast
    assert ("captioner mine runs under autocast" in caplog.text) == (name == "WordsThatCannot")


def test_cards_of_one_captioner_share_it(plugin: str) -> None:
    def card(key: str, **fields: Any) -> CaptionerCard:
        return CaptionerCard(name=key, **{"use": "my_precision:RoundedWords", "tag": key, "image_size": 16, **fields})

    cards = [card("a"), card("b", num_captions=1), card("c", use="my_precision:Words"), card("d", digests={"use": "0"})]
    ready = load_captioners([*cards[:3], card("e")], CPU, "bfloat16", [plugin])
    assert [one.card.name for one in ready] == ["a", "b", "c", "e"]
    first, second, other, third = (one.captioner for one in ready)
    assert first is second is third
    assert other is not first
    assert [one.needs_autocast for one in ready] == [False, False, True, False]
    assert not cards[0].has_model_of(cards[3])
    with pytest.raises(ModelError, match="card f: image_size is 9 in the card but 16 in the model"):
        load_captioners([card("a"), card("f", image_size=9)], CPU, "bfloat16", [plugin])
    with pytest.raises(ConfigError, match="card g: prompt: "):
        load_captioners([card("a"), card("g", prompt="Why?")], CPU, "bfloat16", [plugin])


def test_a_captioner_whose_logits_rounding_ruins_runs_under_autocast(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def ruin(module: torch.nn.Module, dtype: torch.dtype) -> None:
        module.to(dtype).text_decoder.text_projection[::2] = 0  # type: ignore[union-attr, operator, index]

    monkeypatch.setattr("dr_pipeline.networks.rounding.cast_weights", ruin)
    (card,) = demo_job("none", "none").captioners
    made: Any = load_ready_captioner(card, CPU, "bfloat16")
    assert made.needs_autocast
    assert "ModelError: its logits are then 0." in caplog.text
    assert made.captioner._model.text_decoder.text_projection.dtype == torch.float32
