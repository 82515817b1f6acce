"""Architectures of open_clip, by name or from a JSON file, and their modules with random weights."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.coca_model import CoCa
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.factory import get_model_config, list_models
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from dr_pipeline.config.extras import require
from dr_pipeline.config.strict import Triple, triple
from dr_pipeline.errors import ModelError, nearest, reason
from dr_pipeline.networks.files import CONFIG_NAMES, HUB, how_to_get, hub_file, resource
from dr_pipeline.networks.weights import pretrained_cfg

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Architecture:
    """What open_clip builds a model from: `config` is its model_cfg, `mean` and `std` normalise its images."""

    name: str
    config: dict[str, Any]
    mean: Triple
    std: Triple

    @property
    def context_length(self) -> int:
        """Tokens that the text tower takes."""
        return int(self.config["text_cfg"].get("context_length", 77))

    def wrong_context_length(self, length: int) -> ModelError:
        """The error for a context_length that the text tower does not take."""
        limit = self.context_length
        return ModelError(
            f"model {self.name}: context_length is {length}; its text tower takes {limit}: set that or less"
        )


def read_architecture(model: str, weights: str) -> Architecture:
    """The architecture of a name of open_clip, hf-hub:org/repo[/file], or a JSON file: the hub's open_clip_config.json,
    or one of open_clip's own files of architectures, which some repositories hold by another name.

    `weights` tells which mean and std, where the architecture was trained with several. Raises ModelError.
    """
    if model.startswith(HUB) or model.endswith(".json"):
        path = hub_file(model.removeprefix(HUB), CONFIG_NAMES) if model.startswith(HUB) else resource(model)
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            config = dict(tree if "vision_cfg" in tree else tree["model_cfg"])
            return Architecture(model, config, *_mean_and_std(tree.get("preprocess_cfg", {})))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            expected = '{"model_cfg": {…}, "preprocess_cfg": {"mean": [r, g, b], "std": [r, g, b]}}'
            raise ModelError(
                f"model {model}: expected JSON {expected}, or what is under model_cfg alone: {reason(error)}"
            ) from error
    config = get_model_config(model)
    if config is None:
        known = nearest(model, list_models()) or "; open_clip.list_models() lists what there is"
        raise ModelError(f"model {model}: open_clip has no such architecture{known}")
    preprocess = pretrained_cfg(model, weights)
    if not preprocess:  # weights without a record: all of the architecture's tags may share mean and std
        records = [get_pretrained_cfg(model, tag) for tag in list_pretrained_tags_by_model(model)]
        if len({(record["mean"], record["std"]) for record in records}) == 1:
            preprocess = records[0]
        elif records:
            log.warning(
                "model %s: its tags differ in mean and std; using OpenAI's. A JSON config can say others", model
            )
    return Architecture(model, config, *_mean_and_std(preprocess))


def build(architecture: Architecture, seed: int = 0) -> torch.nn.Module:
    """The module with random weights, which depend on the architecture's config and the seed alone.

    Raises ModelError when open_clip cannot build it, ConfigError where a package is missing.
    """
    arguments = deepcopy(architecture.config)
    custom = arguments.pop("custom_text", False) or "hf_model_name" in arguments.get("text_cfg", {})
    if "hf_model_name" in arguments.get("text_cfg", {}):
        require("transformers", f"model {architecture.name}: its text tower")
    kind = CoCa if "multimodal_cfg" in arguments else CustomTextCLIP if custom else CLIP
    try:
        if "timm_model_name" in arguments["vision_cfg"]:
            arguments["vision_cfg"]["timm_model_pretrained"] = False
        if "hf_model_name" in arguments["text_cfg"]:
            arguments["text_cfg"]["hf_model_pretrained"] = False
        with same_random_numbers(f"{json.dumps(architecture.config, sort_keys=True)} {seed}"):
            module = kind(**arguments)
            if isinstance(module, CoCa):  # the one parameter that open_clip leaves as uninitialised memory
                torch.nn.init.normal_(module.text_decoder.text_projection, std=module.text_decoder.width**-0.5)
            return module
    except Exception as error:
        if isinstance(error, OSError | ImportError) and (repo := arguments["text_cfg"].get("hf_model_name")):
            help_text = how_to_get(repo, "AutoConfig", error)
            raise ModelError(f"model {architecture.name}: its text tower's configuration: {help_text}") from error
        raise ModelError(
            f"model {architecture.name}: open_clip cannot build a {kind.__name__} of it: "
            f"{type(error).__name__}: {error}"
        ) from error


@contextmanager
def same_random_numbers(text: str) -> Iterator[None]:
    """Have torch draw, in the block, random numbers on the CPU that depend on a text alone."""
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number)
        yield


def _mean_and_std(preprocess: dict[str, Any]) -> tuple[Triple, Triple]:
    return triple(preprocess.get("mean", OPENAI_DATASET_MEAN)), triple(preprocess.get("std", OPENAI_DATASET_STD))
