"""Models of timm and torchvision as teachers give what their libraries give, and say what they are."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.jobfile import load_card
from dr_pipeline.config.plugins import load_class
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.image_module import ImageModule
from dr_pipeline.models.load import load_teacher
from dr_pipeline.models.precision import load_ready
from dr_pipeline.models.protocol import TextTeacher
from dr_pipeline.models.timm import TimmClassifier, TimmTeacher
from dr_pipeline.models.torchvision import TorchvisionClassifier
from dr_pipeline.networks.digests import find_digests

CPU = torch.device("cpu")
HALVES = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[torch.nn.Module, str]]:
    """Models with other weights than a teacher's own random ones, and the files of these by name."""
    folder = tmp_path_factory.mktemp("weights")
    models = {
        "test_vit": timm.create_model("test_vit", num_classes=10),
        "test_convnext": timm.create_model("test_convnext"),
        "squeezenet1_1": torchvision.models.squeezenet1_1(num_classes=10),
    }
    for name, module in models.items():
        save_file(module.eval().state_dict(), folder / f"{name}.safetensors")
    return {name: (module, str(folder / f"{name}.safetensors")) for name, module in models.items()}


def images(teacher: ImageModule, count: int = 3) -> torch.Tensor:
    size = teacher.spec.images.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def check_rows(teacher: ImageModule, expected: torch.Tensor) -> None:
    """The teacher gives these rows for `images`, and each of them for its image alone."""
    output = teacher.encode_images(images(teacher))
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    alone = torch.cat([teacher.encode_images(image[None]) for image in images(teacher)])
    torch.testing.assert_close(alone, output, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_a_backbone_of_timm_gives_its_pooled_features(saved) -> None:
    module, weights = saved["test_convnext"]
    teacher = TimmTeacher(CPU, "test_convnext", weights)
    check_rows(teacher, module.forward_head(module.forward_features(images(teacher)), pre_logits=True))
    assert (teacher.spec.dim, teacher.spec.image_size, teacher.spec.output) == (64, 160, "embedding")
    assert (teacher.spec.mean, teacher.spec.std) == (HALVES, HALVES)
    assert not isinstance(teacher, TextTeacher)


@torch.inference_mode()
def test_size_and_pooling_can_be_chosen(saved) -> None:
    module, weights = saved["test_vit"]
    teacher = TimmTeacher(CPU, "test_vit", weights, num_classes=10, image_size=64, pooling="avg")
    assert teacher.spec.image_size == 64
    resized = timm.create_model("test_vit", num_classes=10).eval()
    resized.load_state_dict(module.state_dict())
    resized.set_input_size((64, 64))
    check_rows(teacher, resized.forward_features(images(teacher))[:, 1:].mean(dim=1))


@torch.inference_mode()
def test_a_classifier_gives_the_softmax_of_its_logits(saved) -> None:
    module, weights = saved["test_vit"]
    teacher = TimmClassifier(CPU, "test_vit", weights, num_classes=10, temperature=0.5)
    check_rows(teacher, (2 * module(images(teacher))).softmax(dim=1))
    assert (teacher.spec.dim, teacher.spec.output) == (10, "probabilities")
    assert load_teacher(card(TimmClassifier, model="test_vit", weights=weights, num_classes=10), CPU)


@torch.inference_mode()
def test_a_classifier_of_torchvision(saved) -> None:
    module, weights = saved["squeezenet1_1"]
    teacher = TorchvisionClassifier(CPU, "squeezenet1_1", weights, num_classes=10, image_size=64)
    check_rows(teacher, module(images(teacher)).softmax(dim=1))
    assert (teacher.spec.dim, teacher.spec.output) == (10, "probabilities")
    assert (teacher.spec.mean, teacher.spec.std) == IMAGENET


def card(cls: type, **options: Any) -> TeacherCard:
    return TeacherCard(name="mine", use=f"{cls.__module__}:{cls.__name__}", options=options)


@pytest.mark.parametrize(
    ("cls", "model"), [(TimmTeacher, "test_vit"), (TimmClassifier, "test_resnet"), (TorchvisionClassifier, "resnet18")]
)
def test_random_weights_are_the_same_each_time_and_cost_is_counted(cls: Any, model: str) -> None:
    teacher, again = (cls(CPU, model, "random", image_size=64) for _ in range(2))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        output = teacher.encode_images(images(teacher, 1))
    assert torch.equal(again.encode_images(images(teacher, 1)), output)
    cost = cls.cost(model, "random", image_size=64)
    assert (cost.image_size, cost.dim, cost.text_flops) == (64, teacher.spec.dim, 0)
    assert cost.image_flops == pytest.approx(counter.get_total_flops(), rel=0.1)  # which knows no attention on a CPU


def test_weights_are_rounded_once(saved) -> None:
    ready = load_ready(card(TimmTeacher, model="test_convnext", weights=saved["test_convnext"][1]), CPU, "bfloat16")
    assert not ready.needs_autocast


@pytest.mark.parametrize(
    ("cls", "options", "said"),
    [
        (TimmTeacher, {"model": "test_vitt"}, "timm has no such model; did you mean test_vit"),
        (TimmTeacher, {"model": "resnet50.a9"}, "timm cannot build it"),
        (TimmTeacher, {"model": "test_vit", "image_size": 63}, "63"),
        (TimmTeacher, {"model": "vit_base_patch16_224", "weights": "pretraind"}, "such tag.*; did you mean pretrained"),
        (TimmClassifier, {"model": "vit_small_patch14_dinov2"}, "has no classes: set options.num_classes"),
        (TorchvisionClassifier, {"model": "resnet51"}, "no such classifier; did you mean resnet50"),
        (TorchvisionClassifier, {"model": "resnet50", "weights": "IMAGENET1K"}, "did you mean IMAGENET1K_V2"),
        (TorchvisionClassifier, {"model": "squeezenet1_1", "image_size": 4}, "fails on an image of 4 px"),
    ],
)
def test_what_does_not_exist_is_named(cls: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        cls(CPU, **{"weights": "random", **options})


def test_another_models_weights_are_refused(saved) -> None:
    with pytest.raises(ModelError, match="model test_convnext: timm cannot"):
        TimmTeacher(CPU, "test_convnext", saved["test_vit"][1])
    with pytest.raises(ModelError, match="for VisionTransformer: size mismatch for head"):
        TimmClassifier(CPU, "test_vit", saved["test_vit"][1], num_classes=7)
    with pytest.raises(ModelError, match="checkpoint of another model"):
        TorchvisionClassifier(CPU, "resnet18", saved["squeezenet1_1"][1])
    with pytest.raises(ConfigError, match=r"options\.temperature is 0"):
        TimmClassifier(CPU, "test_resnet", "random", temperature=0)


def test_weights_are_covered_by_digests(saved) -> None:
    options = {"model": "test_vit", "weights": saved["test_vit"][1]}
    assert find_digests(options, (), "mine").keys() == {"weights"}


OF_IMAGE_MODELS = [
    path
    for path in sorted((Path(__file__).parents[2] / "teachers").glob("*.yaml"))
    if re.search(r"^use: dr_pipeline\.models\.(timm|torchvision):", path.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize("path", OF_IMAGE_MODELS, ids=lambda path: path.stem)
def test_every_card_is_the_model_that_its_library_records(path: Path) -> None:
    card = load_card(path, TeacherCard)
    model, weights = card.options["model"], card.options["weights"]
    cost = load_class(card.use).cost(**card.options)
    assert cost is None or (cost.dim, cost.image_size) == (card.dim, card.image_size)
    if "timm" in card.use:
        record = timm.get_pretrained_cfg(model)
        assert (card.mean, card.std) == (record.mean, record.std)
    else:
        preset = torchvision.models.get_model_weights(model)[weights].transforms()
        assert (card.mean, card.std) == (tuple(preset.mean), tuple(preset.std))
        assert card.image_size == preset.crop_size[0]
