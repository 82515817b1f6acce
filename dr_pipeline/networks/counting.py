"""A network's cost, counted by torch: of any architecture that open_clip can build."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dr_pipeline.networks.architecture import build, read_architecture
from dr_pipeline.networks.cost import Cost


def count_architecture(model: str, weights: str) -> Cost:
    """The cost of an architecture by its options, without memory for it. Raises ModelError."""
    architecture = read_architecture(model, weights)
    with torch.device("meta"):
        module = build(architecture)
    return count(module, architecture.context_length)


def count(module: Any, context_length: int) -> Cost:
    """The cost of a CLIP or CoCa module on the meta device. A decoder's token is two operations a parameter."""
    module.eval().requires_grad_(False)  # the counter trips over what would need a gradient but gets none
    size = module.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    images_BCHW = torch.zeros(1, 3, height, width, device="meta")
    tokens_BT = torch.zeros(1, context_length, dtype=torch.int64, device="meta")
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    with _no_fast_path():
        image_flops = _flops(module.encode_image, images_BCHW)
        if not hasattr(module, "text_decoder"):
            return Cost(sum(sizes.values()), image_flops, _flops(module.encode_text, tokens_BT))
    decoder = sum(size for name, size in sizes.items() if not name.startswith("visual."))
    return Cost(sum(sizes.values()), image_flops, token_flops=2 * decoder)


def _flops(encode: Callable[[torch.Tensor], object], batch: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encode(batch)
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
