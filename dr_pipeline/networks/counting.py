"""A network's cost, counted by torch: of any architecture that open_clip can build."""

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
from dr_pipeline.networks.architecture import Architecture, build, read_architecture
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


def count_architecture(model: str, weights: str) -> Cost | None:
    """The cost of an architecture by its options, without memory for it; None where values decide what it does.

    Raises ModelError where it cannot be built, and where its forward pass fails for want of fitting shapes.
    """
    architecture = read_architecture(model, weights)
    with torch.device("meta"):
        module = build(architecture)
    return counted(module, architecture)


def counted(module: Any, architecture: Architecture) -> Cost | None:
    """As `count_architecture`, of an architecture's module on the meta device."""
    try:
        return replace(count(module, architecture.context_length), dim=architecture.config["embed_dim"])
    except Exception as error:
        said = f"model {architecture.name}: its forward pass fails: {type(error).__name__}: {first_line(error)}"
        if not isinstance(error, _LOOKS_AT_VALUES) and "meta" not in str(error):
            raise ModelError(said) from error
        log.warning("%s: it looks at values, so its operations cannot be counted without its weights", said)
        return None


def count(module: Any, context_length: int) -> Cost:
    """The cost of a CLIP or CoCa module on the meta device. A decoder's token is two operations a parameter."""
    module.eval().requires_grad_(False)  # the counter trips over what would need a gradient but gets none
    size = module.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    images_BCHW = torch.zeros(1, 3, height, width, device="meta")
    tokens_BT = torch.zeros(1, context_length, dtype=torch.int64, device="meta")
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    image_size = height if height == width else None
    with _no_fast_path():
        image_flops = _flops(module.encode_image, images_BCHW)
        if not hasattr(module, "text_decoder"):
            text_flops = _flops(module.encode_text, tokens_BT)
            return Cost(sum(sizes.values()), image_flops, text_flops, image_size=image_size)
    decoder = sum(size for name, size in sizes.items() if not name.startswith("visual."))
    return Cost(sum(sizes.values()), image_flops, token_flops=2 * decoder, image_size=image_size)


def _flops(encode: Callable[[torch.Tensor], object], batch: torch.Tensor) -> int:
    # Transformers' text towers look at their masks' values, but not at those of fake tensors.
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, FlopCounterMode(display=False) as counter:
        encode(fake.from_tensor(batch))
    return counter.get_total_flops()


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Attention's fast path is one opaque operation, which the counter does not know."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)
