"""check_teacher finds what a plug-in's author has wrong, and passes what is right."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.jobfile import load_card
from dr_pipeline.models.checks.findings import telling_where
from dr_pipeline.models.checks.teachers import check_teacher
from dr_pipeline.models.distance import spread, unit_rows
from dr_pipeline.models.load import load_teacher
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "teachers/examples/mirror.yaml"
CPU = torch.device("cpu")

# One working teacher, and below it one line that is wrong in each.
PLUGIN = """
import dataclasses
import torch
from torch import nn
from dr_pipeline.models.protocol import TeacherSpec

class Right:
    def __init__(self, device):
        torch.manual_seed(0)
        self.spec = TeacherSpec(image_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=8)
        self.image = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(128, 8))
        self.text = nn.Embedding(256, 8)
        for module in (self.image, self.text):
            module.to(device).eval().requires_grad_(False)
        self.device = device
    def encode_images(self, images_BCHW):
        return self.image(images_BCHW)
    def encode_texts(self, texts):
        rows = [self.text(torch.tensor([0, *text.encode()], device=self.device)).mean(0) for text in texts]
        return torch.stack(rows)

class TrainMode(Right):
    def __init__(self, device):
        super().__init__(device)
        self.image.train()

class Dropout(Right):
    def encode_images(self, images_BCHW):
        return nn.functional.dropout(self.image(images_BCHW), 0.1)

class Gradients(Right):
    def __init__(self, device):
        super().__init__(device)
        self.image.requires_grad_(True)

class Padding(Right):
    def encode_texts(self, texts):
        longest = max(len(text) for text in texts)
        return super().encode_texts([text.ljust(longest) for text in texts])

class NoEmptyText(Right):
    def encode_texts(self, texts):
        rows = [self.text(torch.tensor(list(text.encode()), device=self.device)).mean(0) for text in texts]
        return torch.stack(rows)

class AsciiOnly(Right):
    def encode_texts(self, texts):
        return super().encode_texts([text.encode("ascii").decode() for text in texts])

class Stacked(Right):
    def encode_texts(self, texts):
        tokens = torch.tensor([list(text.encode()) for text in texts], device=self.device)
        return self.text(tokens).mean(1)

class Integers(Right):
    def encode_images(self, images_BCHW):
        return (self.image(images_BCHW) * 100).int()

class Overflows(Right):
    def encode_texts(self, texts):
        longest = torch.tensor([[float(len(text) > 200)] for text in texts])
        return super().encode_texts(texts) / (1 - longest)

class OneForAll(Right):
    def encode_images(self, images_BCHW):
        return torch.ones(len(images_BCHW), 8)

class Unseeded(Right):
    def __init__(self, device):
        super().__init__(device)
        torch.seed()
        nn.init.normal_(self.image[4].weight)

class Rounds(Right):
    def to_precision(self, dtype):
        for module in (self.image, self.text):
            module.to(dtype)
        self.image[1].float()
    def encode_images(self, images_BCHW):
        return super().encode_images(images_BCHW.to(self.text.weight.dtype))

class RoundsAndForgetsImages(Rounds):
    encode_images = Right.encode_images

class WrongDim(Right):
    def __init__(self, device):
        super().__init__(device)
        self.spec = TeacherSpec(image_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=9)

class Images:
    def __init__(self, device):
        right = Right(device)
        self.spec, self.encode_images = right.spec, right.encode_images

class Texts:
    def __init__(self, device):
        self.spec, self.encode_texts = TeacherSpec(dim=8), Right(device).encode_texts

class Classes(Images):
    def __init__(self, device):
        super().__init__(device)
        self.spec = dataclasses.replace(self.spec, output="probabilities")
        self.logits = self.encode_images
        self.encode_images = lambda images_BCHW: self.logits(images_BCHW).softmax(1)

class Logits(Classes):
    def __init__(self, device):
        super().__init__(device)
        self.encode_images = self.logits

class Beauty(Images):
    def __init__(self, device):
        super().__init__(device)
        self.spec = dataclasses.replace(self.spec, dim=1, output="scores")
        self.outputs = self.encode_images
        self.encode_images = lambda images_BCHW: 100 * self.outputs(images_BCHW)[:, :1]

class BeautyOfBatch(Beauty):
    def __init__(self, device):
        super().__init__(device)
        one = self.encode_images
        self.encode_images = lambda images_BCHW: one(images_BCHW) - one(images_BCHW).mean()

class OneBeauty(Beauty):
    def __init__(self, device):
        super().__init__(device)
        self.encode_images = lambda images_BCHW: torch.full((len(images_BCHW), 1), 5.0)

class UnseededTexts(Right):
    def __init__(self, device):
        super().__init__(device)
        torch.seed()
        nn.init.normal_(self.text.weight)

class FloatOnly(Right):
    def encode_images(self, images_BCHW):
        hidden = self.image[:4](images_BCHW)
        assert hidden.dtype == torch.float32
        return self.image[4](hidden)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "checked_plugin", raising=False)
    (tmp_path / "checked_plugin.py").write_text(PLUGIN)
    return str(tmp_path)


def problems_of(name: str, folder: str) -> list[str]:
    return check_teacher(TeacherCard(name="mine", use=f"checked_plugin:{name}"), [folder]).problems


@pytest.mark.parametrize(
    ("name", "ability"),
    [
        ("Right", "images of 16 px and texts → an embedding of 8 dims"),
        ("Rounds", "images of 16 px and texts → an embedding of 8 dims"),
        ("Images", "images of 16 px → an embedding of 8 dims"),
        ("Texts", "texts → an embedding of 8 dims"),
        ("Gradients", "images of 16 px and texts → an embedding of 8 dims"),
        ("Classes", "images of 16 px → probabilities of 8 dims"),
        ("Beauty", "images of 16 px → scores of 1 dim"),
    ],
)
def test_a_right_teacher_has_no_problems_and_it_is_told_what_it_can_do(folder: str, name: str, ability: str) -> None:
    checked = check_teacher(TeacherCard(name="mine", use=f"checked_plugin:{name}"), [folder])
    assert (checked.facts["teacher"], checked.problems) == (ability, [])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("TrainMode", ["encode_images is not batch-invariant"]),
        ("Dropout", ["encode_images returns other embeddings on a second call"]),
        ("Padding", ["encode_texts is not batch-invariant"]),
        ("NoEmptyText", ["encode_texts, given text '' alone, fails: RuntimeError", "given 9 inputs, fails"]),
        ("AsciiOnly", ["given text 'Ein großes", "given text '50% off –", "given 9 inputs, fails: UnicodeEncodeError"]),
        ("Stacked", ["encode_texts, given text '' alone, fails", "encode_texts, given 9 inputs, fails: ValueError"]),
        ("Integers", ["encode_images returned torch.int32; return floats"]),
        ("Overflows", ["given text 'a very long text", "given 9 inputs, returned NaN or infinity for 1 of 9"]),
        ("OneForAll", ["encode_images returns one embedding for different inputs"]),
        ("Unseeded", ["Constructed twice, it embeds the same images differently"]),
        ("UnseededTexts", ["Constructed twice, it embeds the same texts differently"]),
        ("Logits", ["encode_images returns probabilities below 0 or above 1"]),
        ("BeautyOfBatch", ["encode_images is not batch-invariant"]),
        ("OneBeauty", ["encode_images returns one embedding for different inputs"]),
        ("WrongDim", ["encode_images returned shape [1, 8] for 1 inputs; its spec says [1, 9]"]),
        ("FloatOnly", ["encode_images, under bfloat16 autocast, fails: AssertionError"]),
        ("RoundsAndForgetsImages", ["to_precision cannot be used, so that jobs run it under autocast: "]),
        ("Missing", ["checked_plugin has no Missing"]),
    ],
)
def test_each_mistake_is_told(folder: str, name: str, said: list[str]) -> None:
    problems = problems_of(name, folder)
    assert len(problems) == len(said), problems
    for problem, words in zip(problems, said, strict=True):
        assert words in problem


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TeacherCard:
    """The example's card as it is in the repository."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    return load_card(EXAMPLE, TeacherCard)


def test_the_example_plugin_is_a_right_teacher(example: TeacherCard) -> None:
    assert check_teacher(example, [str(ROOT)]).problems == []


def test_the_example_plugin_averages_an_image_with_its_mirror_image(example: TeacherCard) -> None:
    mirror = load_teacher(example, CPU, [str(ROOT)])
    clip: Any = load_teacher(
        TeacherCard(
            name="a",
            use="dr_pipeline.models.open_clip:OpenClipTeacher",
            options={
                "model": example.options["config"],
                "weights": example.options["weights"],
                "tokenizer": "dr_pipeline.demo.tokenizer:WordTokenizer",
            },
        ),
        CPU,
    )
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = clip.encode_images(images) + clip.encode_images(images.flip(3))
        torch.testing.assert_close(mirror.encode_images(images), expected)
        assert not torch.allclose(expected, 2 * clip.encode_images(images))
        torch.testing.assert_close(mirror.encode_texts(["a red circle"]), clip.encode_texts(["a red circle"]))


# With random weights open_clip's ResNet has images 0.04 apart, where trained models have 0.5 and more.
RANDOM_RESNET = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": [2, 2, 2, 2], "width": 16, "patch_size": None},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
NEARLY_EQUAL = """
import torch
from torch import nn
from dr_pipeline.models.open_clip import OpenClipTeacher

class Near(OpenClipTeacher):
    part = 0.01
    def __init__(self, device, model):
        super().__init__(device, model=model, weights="random")
    def pull(self, embeddings):
        return self.part * nn.functional.normalize(embeddings, dim=1) + torch.ones(64)
    def encode_images(self, images_BCHW):
        return self.pull(super().encode_images(images_BCHW))

class Swaps(Near):
    def encode_images(self, images_BCHW):
        return super().encode_images(images_BCHW).flip(0)

class TrainMode(Near):
    def __init__(self, device, model):
        super().__init__(device, model)
        self._network.module.visual.train()

class Dropout(Near):
    def encode_images(self, images_BCHW):
        return self.pull(nn.functional.dropout(OpenClipTeacher.encode_images(self, images_BCHW), 0.1))

class OneForAll(Near):
    part = 0.0

class Unseeded(Near):
    def __init__(self, device, model):
        super().__init__(device, model)
        torch.seed()
        nn.init.normal_(self._network.module.visual.attnpool.c_proj.weight)
"""


@pytest.fixture
def random_resnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "nearly_equal", raising=False)
    (tmp_path / "nearly_equal.py").write_text(NEARLY_EQUAL)
    (tmp_path / "resnet.json").write_text(json.dumps({"model_cfg": RANDOM_RESNET}))
    return str(tmp_path / "resnet.json")


def test_a_model_with_random_weights_has_no_problems(random_resnet: str) -> None:
    options = {"model": random_resnet, "weights": "random"}
    card = TeacherCard(name="mine", use="dr_pipeline.models.open_clip:OpenClipTeacher", options=options)
    teacher = load_teacher(card, CPU)
    with torch.inference_mode():
        assert spread(unit_rows(teacher.encode_images(torch.rand(4, 3, 64, 64)))) < 0.05
    assert check_teacher(card).problems == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Near", None),
        ("Swaps", "encode_images is not batch-invariant"),
        ("TrainMode", "encode_images is not batch-invariant"),
        ("Dropout", "encode_images returns other embeddings on a second call"),
        ("OneForAll", "encode_images returns one embedding for different inputs"),
        ("Unseeded", "Constructed twice, it embeds the same images differently"),
    ],
)
def test_faults_are_found_in_nearly_equal_embeddings(name: str, said: str | None, random_resnet: str) -> None:
    """Different images are 4e-5 apart: hardly more than rounding, and a fault is no larger."""
    card = TeacherCard(name="mine", use=f"nearly_equal:{name}", options={"model": random_resnet})
    problems = check_teacher(card, [str(Path(random_resnet).parent)]).problems
    assert len(problems) == (said is not None), problems
    assert all(str(said) in problem for problem in problems)


def test_what_says_that_it_is_not_reproducible_is_told_that_reruns_differ(folder: str) -> None:
    honest = "\nclass HonestDropout(Dropout):\n    reproducible = False\n"
    (Path(folder) / "checked_plugin.py").write_text(PLUGIN + honest)
    checked = check_teacher(TeacherCard(name="mine", use="checked_plugin:HonestDropout"), [folder])
    assert checked.problems == []
    assert checked.facts["reruns"].startswith("will differ, as the class says")


def test_it_tells_what_a_teacher_can_do_beyond_its_methods_and_how_fast_it_is() -> None:
    card = load_card("package://dr_pipeline.demo/cards/scene_clip_a.yaml", TeacherCard)
    checked = check_teacher(card, batch=3)
    assert checked.problems == []
    assert [*checked.facts] == ["teacher", "can also", "images", "speed", "memory"]
    for ability in ("tokenized beside the device", "round its weights", "float8", "compiled", "CUDA graphs"):
        assert ability in checked.facts["can also"]
    assert re.fullmatch(
        r"[\d,.]+ images/s in batches of 3, [\d,.]+ texts/s in batches of 3 \(.+\)", checked.facts["speed"]
    )
    assert "GiB" in checked.facts["memory"]


def test_a_constructor_that_takes_long_is_told_where_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with telling_where("constructing lab:Slow", patience_seconds=0.01):
        wait_until(lambda: bool(caplog.records))
    assert re.search(r"constructing lab:Slow takes more than 0\.01 s; it is at .+\.py:\d+, in \w+", caplog.text)
