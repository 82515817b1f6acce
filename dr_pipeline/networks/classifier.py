"""A classifier of images, a network of timm with a logit a class, and the folder in which timm finds one.

    config.json          the name, the classes, and the images that it takes
    model.safetensors    its weights

`timm.create_model("local-dir:FOLDER", pretrained=True)` loads it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE

from dr_pipeline.errors import ModelError, reason
from dr_pipeline.networks.files import resource
from dr_pipeline.networks.images import ImageSpec
from dr_pipeline.networks.network import fill
from dr_pipeline.networks.timm_models import build_timm, load_timm
from dr_pipeline.networks.weights import find_weights

TIMM = "timm:"
"""The scheme of an architecture that timm builds."""
CLASSIFIER_FILES = CONFIG_NAME, SAFETENSORS_SINGLE_FILE
"""The two files' names."""


@dataclass(frozen=True)
class Classifier:
    """A module on its device that gives `num_classes` logits an image; `name` is timm's."""

    name: str
    module: Any
    image: ImageSpec
    num_classes: int


def is_classifier(architecture: str) -> bool:
    """Whether an architecture is a classifier: timm:NAME, or the config.json of one. Raises ModelError."""
    return architecture.startswith(TIMM) or (architecture.endswith(".json") and "architecture" in _read(architecture))


def load_classifier(architecture: str, weights: str, device: torch.device) -> Classifier:
    """Build a classifier and load its weights, in eval mode and without gradients. Raises ModelError.

    `architecture`: timm:NAME, with the classes and images that timm records for it, or the path of a config.json.
    """
    if architecture.startswith(TIMM):
        name = architecture.removeprefix(TIMM)
        module, image = load_timm(name, weights, None, None)
        return Classifier(name, module.to(device).eval().requires_grad_(False), image, module.num_classes)
    config = _read(architecture)
    try:
        name, num_classes, record = config["architecture"], int(config["num_classes"]), config["pretrained_cfg"]
        size, mean, std = record["input_size"][-1], tuple(record["mean"]), tuple(record["std"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"model {architecture}: not the config.json of a classifier of timm: {reason(error)}"
        ) from error
    module, _ = build_timm(name, num_classes, size)
    checkpoint = find_weights(name, weights)
    if checkpoint is not None:
        fill(module, architecture, checkpoint)
    return Classifier(name, module.to(device).eval().requires_grad_(False), ImageSpec(size, mean, std), num_classes)


def describe_classifier(network: Classifier, interpolation: str) -> dict[str, Any]:
    """The content of a classifier's config.json; `interpolation`: by which its images are resized."""
    size = network.image.image_size
    record = {
        "input_size": [3, size, size],
        "mean": network.image.mean,
        "std": network.image.std,
        "interpolation": interpolation,
        "crop_pct": 1.0,
        "num_classes": network.num_classes,
        "fixed_input_size": hasattr(network.module, "set_input_size"),
    }
    return {
        "architecture": network.name,
        "num_classes": network.num_classes,
        "num_features": network.module.num_features,
        "pretrained_cfg": record,
        "model_args": {"img_size": size} if hasattr(network.module, "set_input_size") else {},
    }


def _read(architecture: str) -> dict[str, Any]:
    path = Path(resource(architecture))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"model {architecture}: it is not JSON: {reason(error)}") from error
    return config if isinstance(config, dict) else {}
