"""Weights of open_clip modules: a card's `weights` is found, read and loaded; every key and shape must fit."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.factory import list_models
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from safetensors.torch import load_file

from dr_pipeline.errors import ModelError, nearest
from dr_pipeline.networks.files import HUB, HUB_NAMES, RANDOM, SUFFIXES, first_line, hub_file, resource

# Embeddings do not depend on these, and checkpoints differ in whether they hold them and in their shapes.
FREE_KEYS = {"logit_scale", "logit_bias", "text.transformer.embeddings.position_ids"}

Fit = Callable[[dict[str, torch.Tensor], torch.nn.Module], None]
"""Changes a checkpoint's state dict so that it fits a module."""

log = logging.getLogger(__name__)


def find_weights(model: str, weights: str) -> Path | None:
    """The local file of `weights`: a tag of open_clip, hf-hub:org/repo[/file], a path, package:// or a URL.

    None for "random", with a loud warning. Raises ModelError naming model and weights.
    """
    if weights == RANDOM:
        log.warning("RANDOM WEIGHTS for %s: its embeddings and captions mean nothing; for trying out a job only", model)
        return None
    record = pretrained_cfg(model, weights)
    hub_name = weights.removeprefix(HUB) if weights.startswith(HUB) else record.get("hf_hub", "").strip("/")
    if hub_name:
        return hub_file(hub_name, HUB_NAMES, SUFFIXES)
    if record:
        return resource(record["url"])
    if "/" not in weights and not weights.endswith(SUFFIXES):
        raise unknown_tag(model, weights)
    try:
        return resource(weights)
    except ModelError as error:
        raise ModelError(f"model {model}, weights: {error}") from error


def unknown_tag(model: str, weights: str) -> ModelError:
    """The error for weights that are neither a tag of this model nor an address."""
    tags = list_pretrained_tags_by_model(model)
    return ModelError(
        f"model {model}, weights {weights}: open_clip has no such tag for this model"
        f"{nearest(weights, tags) or '; it has ' + (', '.join(tags) or 'none')} "
        f"(other weights: {HUB}org/repo, a path, a URL, or {RANDOM!r})"
    )


def load_weights(module: torch.nn.Module, path: Path, *fits: Fit) -> None:
    """Load a checkpoint into `module`: no key may be missing or left over. `fits` change it before, in order.

    Without them no position embedding is resized. Raises ModelError that names the first keys that differ.
    """
    state = convert_state_dict(module, _read(path))
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


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file or a torch checkpoint, without unpickling anything but tensors."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"{path} is neither .safetensors nor a plain torch state dict: {first_line(error)}") from error
    if isinstance(state, dict):  # a checkpoint of our training or of open_clip's, or a bare state dict
        state = state.get("network") or state.get("state_dict") or state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path} does not hold a state dict (names → tensors)")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}
