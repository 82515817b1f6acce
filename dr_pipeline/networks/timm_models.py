"""Image models of timm: built by name, with weights of any source or without."""

from typing import Any

import timm
import torch

from dr_pipeline.errors import ModelError, nearest
from dr_pipeline.networks.architecture import same_random_numbers
from dr_pipeline.networks.files import first_line
from dr_pipeline.networks.images import ImageSpec
from dr_pipeline.networks.weights import check_weights, find_weights, read_weights


def build_timm(model: str, num_classes: int, image_size: int | None, seed: int = 0) -> tuple[Any, ImageSpec]:
    """The module with random weights, which depend on its name and the seed alone, and the images that it takes.

    Raises ModelError.
    """
    _check_name(model)
    with same_random_numbers(f"{model} {seed}"):
        return _build(model, {}, num_classes, image_size)


def load_timm(model: str, weights: str, num_classes: int | None, image_size: int | None) -> tuple[Any, ImageSpec]:
    """The module with its weights, and the images that it takes. `weights`: as `find_weights`. Raises ModelError."""
    _check_name(model)
    checkpoint = find_weights(model, weights)
    record = {"source": "", "custom_load": False}
    if checkpoint is not None:
        record["state_dict"] = read_weights(checkpoint)
    with same_random_numbers(model):
        return _build(model, record, num_classes, image_size)


def timm_without_weights(
    model: str, weights: str, num_classes: int | None, image_size: int | None
) -> tuple[Any, ImageSpec]:
    """The module on the meta device, and the images that it takes. Raises ModelError."""
    _check_name(model)
    check_weights(model, weights)
    with torch.device("meta"):
        return _build(model, {}, num_classes, image_size)


def _check_name(model: str) -> None:
    """Raise ModelError where timm has no such model."""
    if not timm.is_model(model):
        known = nearest(model, timm.list_models()) or "; timm.list_models() lists what there is"
        raise ModelError(f"model {model}: timm has no such model{known}")


def _build(
    model: str, record: dict[str, Any], num_classes: int | None, image_size: int | None
) -> tuple[Any, ImageSpec]:
    """The module, and the images that it takes. `record` changes timm's of its weights: a `state_dict` there is loaded.

    Raises ModelError.
    """
    if num_classes is not None:
        record = {**record, "num_classes": num_classes}
    try:
        module: Any = timm.create_model(model, pretrained="state_dict" in record, pretrained_cfg_overlay=record)
        if image_size is not None and hasattr(module, "set_input_size"):
            module.set_input_size((image_size, image_size))
    except Exception as error:
        raise ModelError(f"model {model}: timm cannot build it, or load its weights: {first_line(error)}") from error
    module.pretrained_cfg.pop("state_dict", None)
    known = timm.data.resolve_model_data_config(module)
    _, height, width = known["input_size"]
    if image_size is None and height != width:
        raise ModelError(f"model {model} takes images of {height}×{width}; only square views are made")
    return module, ImageSpec(image_size or height, tuple(known["mean"]), tuple(known["std"]))
