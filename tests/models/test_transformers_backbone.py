"""Vision backbones of transformers as teachers give the library's own pooled outputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModel,
    BitImageProcessor,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.precision import load_ready
from dr_pipeline.models.protocol import TextTeacher
from dr_pipeline.models.transformers_backbone import TransformersBackbone

CPU = torch.device("cpu")
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGES = {"image_size": 32, "patch_size": 8}
MODELS: dict[str, Any] = {
    "dinov2": lambda: Dinov2Model(Dinov2Config(**{**SMALL, "mlp_ratio": 2}, **IMAGES)),
    "dinov3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**SMALL, **IMAGES, num_register_tokens=2)),
    "vit": lambda: ViTModel(ViTConfig(**SMALL, **IMAGES), add_pooling_layer=False),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**SMALL, **IMAGES)),
    "convnext": lambda: ConvNextModel(ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1])),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Saved models with their processors."""
    torch.manual_seed(0)
    folders = {name: tmp_path_factory.mktemp(name) for name in MODELS}
    for name, folder in folders.items():
        MODELS[name]().save_pretrained(folder)
        size = {"height": 32, "width": 32}
        is_siglip = name == "siglip"
        processor = SiglipImageProcessor(size=size) if is_siglip else BitImageProcessor(crop_size=size)
        processor.save_pretrained(folder)
    return {name: str(folder) for name, folder in folders.items()}


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("dinov2", "pooler"),
        ("dinov2", "mean"),
        ("dinov3", "pooler"),
        ("dinov3", "mean"),
        ("vit", "cls"),
        ("siglip", "pooler"),
        ("siglip", "mean"),
        ("convnext", "pooler"),
        ("convnext", "mean"),
    ],
)
@torch.inference_mode()
def test_a_backbone_gives_the_library_s_outputs(folders: dict[str, str], name: str, pooling: Any) -> None:
    teacher = TransformersBackbone(CPU, folders[name], pooling)
    module = AutoModel.from_pretrained(folders[name]).eval()
    images_BCHW = torch.randn(3, 3, 32, 32)
    output = module(images_BCHW)
    prefix = {"dinov2": 1, "dinov3": 3}.get(name, 0)  # class token, and registers
    theirs = {
        "pooler": lambda: output.pooler_output,
        "cls": lambda: output.last_hidden_state[:, 0],
        "mean": lambda: (
            output.last_hidden_state.mean(dim=(2, 3))
            if name == "convnext"
            else output.last_hidden_state[:, prefix:].mean(dim=1)
        ),
    }[pooling]()
    rows = teacher.encode_images(images_BCHW)
    torch.testing.assert_close(rows, theirs, rtol=0, atol=1e-6)
    alone = torch.cat([teacher.encode_images(image_CHW[None]) for image_CHW in images_BCHW])
    torch.testing.assert_close(F.normalize(alone), F.normalize(rows), rtol=0, atol=1e-6)
    assert (teacher.spec.dim, teacher.spec.image_size) == (theirs.shape[1], 32)
    assert not isinstance(teacher, TextTeacher)


def test_another_size_is_another_grid(folders: dict[str, str]) -> None:
    cost = TransformersBackbone.cost(folders["dinov2"], image_size=48)
    teacher = TransformersBackbone(CPU, folders["dinov2"], image_size=48)
    assert teacher.spec.image_size == 48
    assert cost is not None
    assert (cost.image_size, cost.dim) == (48, teacher.spec.dim)
    assert cost.image_flops > TransformersBackbone.cost(folders["dinov2"]).image_flops


def test_weights_are_rounded_once(folders: dict[str, str]) -> None:
    use = "dr_pipeline.models.transformers_backbone:TransformersBackbone"
    card = TeacherCard(name="dino", use=use, options={"model": folders["dinov3"]})
    assert not load_ready(card, CPU, "bfloat16").needs_autocast


def test_what_a_model_has_not_is_named(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"its weights lack 2 of ViTModel's: pooler\.dense\.bias"):
        TransformersBackbone(CPU, folders["vit"], "pooler")
    with pytest.raises(ModelError, match="has no class token"):
        TransformersBackbone(CPU, folders["convnext"], "cls")
    with pytest.raises(ConfigError, match=r"options\.pooling is avg: choose pooler, cls or mean"):
        TransformersBackbone(CPU, folders["vit"], "avg")  # type: ignore[arg-type]
    MODELS["vit"]().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="its image processor: the folder"):
        TransformersBackbone(CPU, str(tmp_path), "cls")
