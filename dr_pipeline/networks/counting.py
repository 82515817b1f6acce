"""A network's cost, counted by torch: of any architecture that open_clip can build.

An operation is a multiplication or an addition in a matrix product, an attention or a convolution; all else is left
out, as is usual.
"""

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

from dr_pipeline.errors import ModelError
from dr_pipeline.networks.architecture import Architecture
from dr_pipeline.networks.cost import Cost
from dr_pipeline.networks.files import first_line

log = logging.getLogger(__name__)

_LOOKS_AT_VALUES = (
    NotImplementedError,
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
)
"""What torch raises where a tensor has no values; of a tensor that has some it says that one of two is on `meta`."""


def counted(count: Callable[[Any, int], Cost], module: Any, architecture: Architecture) -> Cost | None:
    """What `count` gives of an architecture's module on the meta device; None where values decide what it does.

    Raises ModelError where its forward pass fails for want of fitting shapes.
    """
    try:
        return replace(count(module, architecture.context_length), dim=architecture.config["embed_dim"])
    except Exception as error:
        said = f"model {architecture.name}: its forward pass fails: {type(error).__name__}: {first_line(error)}"
        if not isinstance(error, _LOOKS_AT_VALUES) and "meta" not in str(error):
            raise ModelError(said) from error
        log.warning("%s: it looks at values, so its operations cannot be counted without its weights", said)
        return None


def count_towers(module: Any, context_length: int) -> Cost:
    """The cost of a CLIP's two towers; of a CoCa's too, where it only embeds."""
    with shapes_only(module) as image_1CHW:
        with FlopCounterMode(display=False) as image:
            module.encode_image(image_1CHW)
        with FlopCounterMode(display=False) as text:
            module.encode_text(torch.zeros(1, context_length, dtype=torch.int64, device="meta"))
    return cost_of(module, image_flops=image.get_total_flops(), text_flops=text.get_total_flops())


def cost_of(module: Any, **flops: int) -> Cost:
    """A network's cost with these operations."""
    height, width = _image_size(module)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Cost(parameters, **flops, image_size=height if height == width else None)


@contextmanager
def shapes_only(module: Any) -> Iterator[torch.Tensor]:
    """Gives one image for a module on the meta device. Tensors that are made inside have shapes and no values."""
    module.eval().requires_grad_(False)  # the counter trips over what would need a gradient but gets none
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque operation, which the counter does not know
    try:
        # Transformers' text towers look at their masks' values, but not at those of fake tensors.
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield torch.zeros(1, 3, *_image_size(module), device="meta")
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def _image_size(module: Any) -> tuple[int, int]:
    """Height and width in pixels."""
    size = module.visual.image_size
    return (size, size) if isinstance(size, int) else tuple(size)
