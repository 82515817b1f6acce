"""Rounded weights leave what rounding would harm as it was."""

from typing import Any

import pytest
import timm
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from dr_pipeline.networks.rounding import cast_weights

SMALL: dict[str, Any] = {"embed_dim": 48, "num_heads": 3, "depth": 2, "num_classes": 0}


def of_timm(name: str) -> tuple[Any, Any]:
    module: Any = timm.create_model(name, **SMALL)
    return module, module.rope


def of_transformers() -> tuple[Any, Any]:
    small: dict[str, Any] = {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
    }
    module: Any = DINOv3ViTModel(DINOv3ViTConfig(**small, image_size=224))
    return module, module.rope_embeddings


@pytest.mark.parametrize(
    "make",
    [
        lambda: of_timm("eva02_tiny_patch14_224"),
        lambda: of_timm("vit_small_patch16_dinov3"),
        lambda: of_timm("vit_small_patch16_rope_mixed_224"),
        of_transformers,
    ],
)
def test_rotary_positions_are_not_rounded(make: Any) -> None:
    module, rotary = make()

    def tensors() -> dict[str, torch.Tensor]:
        return {**dict(rotary.named_parameters()), **dict(rotary.named_buffers())}

    before = {name: tensor.clone() for name, tensor in tensors().items()}
    cast_weights(module.eval(), torch.bfloat16)
    assert before
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors().items())
    assert next(module.parameters()).dtype == torch.bfloat16
    rows = module(torch.zeros(1, 3, 224, 224, dtype=torch.bfloat16))
    assert getattr(rows, "pooler_output", rows).dtype == torch.bfloat16


def test_batch_normalisation_keeps_its_statistics() -> None:
    norm: Any = torch.nn.BatchNorm2d(3)
    norm.running_mean = torch.tensor([1.001, 2.001, 3.001])
    before = norm.running_mean.clone()
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), norm).eval()
    cast_weights(module, torch.bfloat16)
    assert torch.equal(norm.running_mean, before)
    assert module(torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_other_buffers_are_rounded() -> None:
    module: Any = timm.create_model(
        "swinv2_tiny_window8_256", embed_dim=24, depths=(1, 1), num_heads=(1, 2), num_classes=0
    )
    cast_weights(module.eval(), torch.bfloat16)
    assert module(torch.zeros(1, 3, 256, 256, dtype=torch.bfloat16)).dtype == torch.bfloat16
