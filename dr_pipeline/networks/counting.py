"""The cost of any network that open_clip can build, counted by torch without the network's weights.

An operation is a multiplication or an addition in a matrix product, an attention or a convolution; others are not
counted, as is usual.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.utils.flop_counter import FlopCounterMode

from dr_pipeline.config.extras import require
from dr_pipeline.config.plugins import load_class
from dr_pipeline.errors import HubError, ModelError
from dr_pipeline.networks.architecture import Architecture, build, read_architecture
from dr_pipeline.networks.cost import Cost
from dr_pipeline.networks.files import CONFIG_NAMES, HUB, cached_hub_file, first_line, repo_and_file_of
from dr_pipeline.networks.weights import check_weights

log = logging.getLogger(__name__)

_LOOKS_AT_VALUES = (
    NotImplementedError,
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
)
"""What torch raises where code looks at the values of a tensor that has none."""
_COUNTED: dict[tuple[Any, type, str], Cost | None] = {}
"""The costs that `count_or_none` knows: counting takes a second, and a job may have many models of one architecture."""


def network_cost(
    model: str, weights: str, tokenizer: str | None = None, context_length: int | None = None
) -> Cost | None:
    """The cost of a teacher with these options; None where its operations cannot be counted.

    Raises ModelError as `build_without_weights` does, and where the forward pass fails.
    """
    architecture, module = build_without_weights(model, weights, tokenizer, context_length)
    return count_or_none(count_towers, module, architecture)


def build_without_weights(
    model: str, weights: str, tokenizer: str | None = None, context_length: int | None = None
) -> tuple[Architecture, torch.nn.Module]:
    """The architecture of a model with these options, and its module on the meta device, which takes no memory.

    Raises ModelError where open_clip has no such architecture or weights, and where a local file is missing; HubError
    where the hub's cache lacks the architecture: the hub is not asked; ConfigError where a package is missing.
    """
    check_weights(model, weights)
    if tokenizer is not None:
        load_class(tokenizer)
    if model.startswith(HUB):
        repo, file = repo_and_file_of(model.removeprefix(HUB))
        if not cached_hub_file(repo, (file,) if file else CONFIG_NAMES, ()):
            raise HubError(f"model {model}: its architecture is on the hub, and not in the hub's cache here")
    architecture = read_architecture(model, weights)
    if context_length is not None and context_length > architecture.context_length:
        raise architecture.wrong_context_length(context_length)
    if tokenizer is None and architecture.config["text_cfg"].get("hf_tokenizer_name"):
        require("transformers", f"model {model}: its tokenizer")
    with torch.device("meta"):
        return architecture, build(architecture)


def count_or_none(count: Callable[[Any, int], Cost], module: Any, architecture: Architecture) -> Cost | None:
    """The cost that `count` finds of a module on the meta device; None where its code looks at values.

    `count` takes the module and its context length; of one architecture it is called once. Raises ModelError where the
    forward pass fails otherwise.
    """
    key = count, type(module), json.dumps(architecture.config, sort_keys=True)
    if key not in _COUNTED:
        length, dim = architecture.context_length, architecture.config["embed_dim"]
        _COUNTED[key] = cost_or_none(architecture.name, lambda: replace(count(module, length), dim=dim))
    return _COUNTED[key]


def cost_or_none(model: str, count: Callable[[], Cost]) -> Cost | None:
    """The cost that `count` finds; None where the model's code looks at values.

    Raises ModelError, naming the model, where the forward pass fails otherwise.
    """
    try:
        return count()
    except Exception as error:
        message = f"model {model}: its forward pass fails: {type(error).__name__}: {first_line(error)}"
        # torch names the meta device where a tensor without values meets one that has some.
        if not isinstance(error, _LOOKS_AT_VALUES) and "meta" not in str(error):
            raise ModelError(message) from error
        log.warning("%s: it looks at values, so its operations cannot be counted without its weights", message)
        return None


def count_images(module: torch.nn.Module, embed: Callable[[torch.Tensor], torch.Tensor], image_size: int) -> Cost:
    """The cost of a module on the meta device with which `embed` makes rows [B, dim] of square images."""
    with without_values(module), FlopCounterMode(display=False) as counter:
        output_BD = embed(torch.zeros(1, 3, image_size, image_size, device="meta"))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Cost(parameters, counter.get_total_flops(), image_size=image_size, dim=output_BD.shape[1])


def count_towers(module: Any, context_length: int) -> Cost:
    """The cost of the two towers of a CLIP, or of a CoCa that only embeds."""
    with without_values(module):
        image_1CHW = torch.zeros(1, 3, *image_size(module), device="meta")
        with FlopCounterMode(display=False) as image:
            module.encode_image(image_1CHW)
        with FlopCounterMode(display=False) as text:
            module.encode_text(torch.zeros(1, context_length, dtype=torch.int64, device="meta"))
    return cost_of(module, image_flops=image.get_total_flops(), text_flops=text.get_total_flops())


def cost_of(module: Any, **flops: int) -> Cost:
    """The cost of a network, given its operations."""
    height, width = image_size(module)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Cost(parameters, **flops, image_size=height if height == width else None)


@contextmanager
def without_values(module: torch.nn.Module) -> Iterator[None]:
    """Make a module on the meta device ready to be counted. Tensors made in the block have shapes but no values."""
    module.eval().requires_grad_(False)  # the counter trips over what would need a gradient but gets none
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque operation, which the counter does not know
    try:
        # Transformers' text towers look at their masks' values, but not at those of fake tensors.
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def image_size(module: Any) -> tuple[int, int]:
    """Height and width in pixels of the images that a module of open_clip takes."""
    size = module.visual.image_size
    return (size, size) if isinstance(size, int) else tuple(size)
