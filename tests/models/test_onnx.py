"""Teachers of ONNX files give what the modules give that were exported, in batches of any size and of one."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.jobfile import load_card
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.load import load_teacher
from dr_pipeline.models.onnx import OnnxClassifier, OnnxImageTeacher, OnnxTeacher
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.models.protocol import TextTeacher, TokenTeacher
from dr_pipeline.networks.digests import find_digests

CPU = torch.device("cpu")
TEXTS = ["a red circle", "", "two small blue squares left of a large striped circle", "blue"]
HALVES = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


class Tower(nn.Module):
    """A method of a module as its forward pass."""

    def __init__(self, module: Any, method: str):
        super().__init__()
        self._module, self._method = module, method

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return getattr(self._module, self._method)(inputs)


def export(module: nn.Module, example: torch.Tensor, path: Path, any_batch: bool = True) -> str:
    """Write a module's file, for batches of any size, or of the example's."""
    axes = {"inputs": {0: "batch"}} if any_batch else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter, of which torch warns, is ten times as fast
        torch.onnx.export(
            module.eval(), (example,), path, dynamo=False, input_names=["inputs"], dynamic_axes=axes, opset_version=17
        )
    return str(path)


@pytest.fixture(scope="module")
def clip() -> OpenClipTeacher:
    card = load_card("package://dr_pipeline.demo/cards/scene_clip_a.yaml", TeacherCard)
    return OpenClipTeacher(CPU, **card.options)


@pytest.fixture(scope="module")
def files(clip: OpenClipTeacher, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("onnx")
    module = clip._network.module
    images, tokens = torch.zeros(2, 3, 64, 64), clip.tokenizer(TEXTS[:2])
    return {
        "images": export(Tower(module, "encode_image"), images, folder / "images.onnx"),
        "texts": export(Tower(module, "encode_text"), tokens, folder / "texts.onnx"),
        "two_texts": export(Tower(module, "encode_text"), tokens, folder / "two_texts.onnx", any_batch=False),
    }


@pytest.mark.parametrize("text_file", ["texts", "two_texts"])
@torch.inference_mode()
def test_a_clip_of_two_files(clip: OpenClipTeacher, files: dict[str, str], text_file: str) -> None:
    options = {
        "image_model": files["images"],
        "text_model": files[text_file],
        "tokenizer": "dr_pipeline.demo.tokenizer:WordTokenizer",
        **{name: list(getattr(clip.spec, name)) for name in ("mean", "std")},
    }
    card = TeacherCard(name="onnx", use="dr_pipeline.models.onnx:OnnxTeacher", options=options)
    teacher = load_teacher(card, CPU)
    assert isinstance(teacher, TokenTeacher)
    assert teacher.spec == clip.spec
    assert find_digests(options, (), "onnx").keys() == {"image_model", "text_model"}
    images_BCHW = torch.randn(5, 3, 64, 64)
    torch.testing.assert_close(
        teacher.encode_images(images_BCHW), clip.encode_images(images_BCHW), rtol=1e-5, atol=1e-5
    )
    texts = TEXTS[:3]  # more than the file's two, and none of its multiples
    torch.testing.assert_close(teacher.encode_texts(texts), clip.encode_texts(texts), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_classifier_of_one_image_at_a_time(tmp_path: Path) -> None:
    module = timm.create_model("test_resnet", num_classes=10)
    file = export(module, torch.zeros(1, 3, 32, 32), tmp_path / "classifier.onnx", any_batch=False)
    images_BCHW = torch.randn(3, 3, 32, 32)
    logits = OnnxImageTeacher(CPU, file, **HALVES)
    teacher = OnnxClassifier(CPU, file, **HALVES, temperature=2.0)
    assert (teacher.spec.dim, teacher.spec.image_size, teacher.spec.output) == (10, 32, "probabilities")
    assert not isinstance(teacher, TextTeacher)
    torch.testing.assert_close(logits.encode_images(images_BCHW), module(images_BCHW), rtol=1e-5, atol=1e-5)
    theirs = (module(images_BCHW) / 2).softmax(dim=1)
    torch.testing.assert_close(teacher.encode_images(images_BCHW), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_model": "bad.onnx"}, "cannot be run by onnxruntime"),
        ({"image_model": "absent.onnx"}, "no file at absent.onnx"),
        ({"image_model": "texts"}, "has 0 inputs of 4 dimensions"),
        ({"image_output": "x"}, "has no output x"),
        ({"providers": ["NoProvider"]}, "has no NoProvider here"),
        ({"image_size": 32}, r"image_size is 32, but .* of 64 px"),
        ({"temperature": 0}, "temperature is 0"),
        ({"text_model": "texts"}, "tokenizer or options.tokenizer_of: set one of them"),
    ],
)
def test_what_is_wrong_is_named(
    options: dict[str, Any], said: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.onnx").write_text("no model")
    kinds = {"text_model": OnnxTeacher, "temperature": OnnxClassifier}
    cls: Any = next((kind for name, kind in kinds.items() if name in options), OnnxImageTeacher)
    given = {"image_model": "images", **HALVES, **options}
    given |= {name: files.get(given[name], given[name]) for name in ("image_model", "text_model") if name in given}
    with pytest.raises((ModelError, ConfigError), match=said):
        cls(CPU, **given)
