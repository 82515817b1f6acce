"""What a network of open_clip costs, before its weights are there: parameters, and the operations of a forward pass."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dr_pipeline.errors import ModelError
from dr_pipeline.networks.files import HUB, RANDOM, SUFFIXES, resource
from dr_pipeline.plugins import load_class
from dr_pipeline.recipes import PACKAGE_SCHEME

if TYPE_CHECKING:
    import torch

    from dr_pipeline.networks.architecture import Architecture


@dataclass(frozen=True)
class Cost:
    """A network in figures. Operations are floating-point ones: a multiplication and an addition are two."""

    parameters: int
    image_flops: int
    """One image → embedding; a captioner's: one image → the keys and values that its decoder looks at."""
    text_flops: int = 0
    """One text of the full context length → embedding."""
    token_flops: int = 0
    """A captioner's next token of one caption, when half the context is written. Its parameters are read for it."""
    image_size: int | None = None
    """Pixels of the square images that it takes, where that is known; `dim` is its embeddings' length."""
    dim: int | None = None


def network_cost(
    model: str, weights: str, tokenizer: str | None = None, context_length: int | None = None
) -> Cost | None:
    """The cost of a teacher by its options; None where its operations cannot be counted.

    Raises ModelError as `build_unfilled` does, and where the forward pass fails.
    """
    from dr_pipeline.networks.counting import count_towers, counted

    architecture, module = build_unfilled(model, weights, tokenizer, context_length)
    return counted(count_towers, module, architecture)


def build_unfilled(
    model: str, weights: str, tokenizer: str | None = None, context_length: int | None = None
) -> "tuple[Architecture, torch.nn.Module]":
    """The architecture and module of a model by its options, on the meta device: without memory for its weights.

    Looks for what its construction would miss, too. Raises ModelError where open_clip has no such architecture or
    weights, and where a file of this machine is not there.
    """
    _check_weights(model, weights)
    if tokenizer is not None:
        load_class(tokenizer)
    import torch

    from dr_pipeline.networks.architecture import build, read_architecture

    architecture = read_architecture(model, weights)
    limit = architecture.context_length
    if context_length is not None and context_length > limit:
        raise ModelError(
            f"model {model}: context_length is {context_length}; its text tower takes {limit}: set that or less"
        )
    with torch.device("meta"):
        return architecture, build(architecture)


def _check_weights(model: str, weights: str) -> None:
    """Raise ModelError where there are no such weights, as far as this machine and open_clip's table tell."""
    if weights == RANDOM or weights.startswith(HUB):
        return
    if not weights.startswith(PACKAGE_SCHEME) and "://" in weights:
        return
    if "/" in weights or weights.endswith(SUFFIXES):
        try:
            resource(weights)
        except ModelError as error:
            raise ModelError(f"model {model}, weights: {error}") from error
    else:
        from dr_pipeline.networks.weights import pretrained_cfg, unknown_tag

        if not pretrained_cfg(model, weights):
            raise unknown_tag(model, weights)
