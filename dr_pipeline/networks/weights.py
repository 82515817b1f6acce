"""Weights of open_clip modules: a card's `weights` is found, read and loaded; every key and shape must fit."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from open_clip.convert import convert_state_dict
from open_clip.factory import list_models
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from safetensors.torch import load_file

from dr_pipeline.config.recipes import PACKAGE_SCHEME
from dr_pipeline.errors import ModelError, nearest
from dr_pipeline.networks.files import HUB, HUB_NAMES, RANDOM, SUFFIXES, first_line, hub_file, resource

# Embeddings do not depend on these, and checkpoints differ in whether they hold them and in their shapes.
FREE_KEYS = {"logit_scale", "logit_bias", "text.transformer.embeddings.position_ids"}

Fit = Callable[[dict[str, torch.Tensor], torch.nn.Module], None]
"""Changes a checkpoint's state dict so that it fits a module."""

TIMM_TAG = "pretrained"
"""The weights that timm has of an architecture; where there are several, the architecture's name says which."""

log = logging.getLogger(__name__)


def find_weights(model: str, weights: str) -> Path | None:
    """The local file of `weights`: a tag of the model's library, hf-hub:org/repo[/file], a path, package:// or a URL.

    None for "random", with a loud warning. Raises ModelError naming model and weights.
    """
    if weights == RANDOM:
        log.warning("RANDOM WEIGHTS for %s: its outputs and captions mean nothing; for trying out a job only", model)
        return None
    address = weights_address(model, weights)
    if address.startswith(HUB):
        return hub_file(address.removeprefix(HUB), HUB_NAMES, SUFFIXES)
    try:
        return resource(address)
    except ModelError as error:
        raise ModelError(f"model {model}, weights: {error}") from error


def check_weights(model: str, weights: str) -> None:
    """Raise ModelError where a local file or a tag does not exist; remote files are not looked for."""
    if weights == RANDOM:
        return
    address = weights_address(model, weights)
    if address.startswith(PACKAGE_SCHEME) or not (address.startswith(HUB) or "://" in address):
        find_weights(model, address)


def weights_address(model: str, weights: str) -> str:
    """Where the weights of a tag lie, hf-hub:org/repo or a URL; any other address unchanged.

    Raises ModelError where the weights are neither, and as `pretrained_cfg`.
    """
    record = pretrained_cfg(model, weights)
    if weights.startswith(HUB):
        return weights
    if record:
        repository = record.get("hf_hub", "").strip("/")
        return f"{HUB}{repository}" if repository else str(record["url"])
    tags = {}  # of torchvision and timm
    if model in torchvision.models.list_models(module=torchvision.models):
        tags = {entry.name: str(entry.url) for entry in torchvision.models.get_model_weights(model)}
    if timm.is_model_pretrained(model) and (in_timm := timm.get_pretrained_cfg(model)) is not None:
        tags[TIMM_TAG] = f"{HUB}{in_timm.hf_hub_id}" if in_timm.hf_hub_id else str(in_timm.url)
    if weights in tags:
        return tags[weights]
    if "/" in weights or weights.endswith(SUFFIXES):
        return weights
    known = [*list_pretrained_tags_by_model(model), *tags]
    raise ModelError(
        f"model {model}, weights {weights!a}: its library has no such tag for this model"
        f"{nearest(weights, known) or '; it has ' + (', '.join(known) or 'none')} "
        f"(other weights: {HUB}org/repo, a path, a URL, or {RANDOM!r})"
    )


def load_weights(module: torch.nn.Module, path: Path, *fits: Fit) -> None:
    """Load a checkpoint into `module`: no key may be missing or left over. `fits` change it before, in order.

    Without them no position embedding is resized. Raises ModelError that names the first keys that differ.
    """
    state = convert_state_dict(module, read_weights(path))
    if "positional_embedding" in state and not hasattr(module, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for fit in fits:
        fit(state, module)
    own = module.state_dict()
    problems = [f"lacks {key}" for key in own.keys() - state.keys() - FREE_KEYS]
    problems += [f"has {key}, which the model has not" for key in state.keys() - own.keys() - FREE_KEYS]
    shared = {key for key in own.keys() & state.keys() if key not in FREE_KEYS or own[key].shape == state[key].shape}
    problems += [
        f"{key} is {list(state[key].shape)}, the model's is {list(own[key].shape)}"
        for key in shared
        if state[key].shape != own[key].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:4]) + ("; …" if len(problems) > 4 else "")
        raise ModelError(f"{path} is a checkpoint of another model ({len(problems)} differences: {shown})")
    module.load_state_dict({key: state[key] for key in shared}, strict=False)


def pretrained_cfg(model: str, weights: str) -> dict[str, Any]:
    """open_clip's record of a tag, or of the tag with the hub repository that `weights` names; {} where there is none.

    Raises ModelError where the weights were trained with the other activation: the keys would fit, and the embeddings
    be wrong (open_clip lists most tags under both activations, and only warns).
    """
    plain = model.removesuffix("-quickgelu")
    for name in (model, plain, f"{plain}-quickgelu"):
        for tag in list_pretrained_tags_by_model(name):
            record: dict[str, Any] = get_pretrained_cfg(name, tag)
            if weights not in (tag, f"{HUB}{record.get('hf_hub', '').strip('/')}"):
                continue
            trained_as = f"{plain}-quickgelu" if record.get("quick_gelu") else plain
            if trained_as != model and trained_as in list_models():
                raise ModelError(
                    f"model {model}, weights {weights}: trained as {trained_as}; set options.model to that"
                )
            return record
    return {}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file or a torch checkpoint, without unpickling anything but tensors.

    Raises ModelError where it is neither.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"{path} is neither .safetensors nor a plain torch state dict: {first_line(error)}") from error
    if isinstance(state, dict):  # a checkpoint of our training, of open_clip's or of other trainers, or a bare state
        state = state.get("network") or state.get("state_dict") or state.get("model") or state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path} does not hold a state dict (names → tensors)")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}
