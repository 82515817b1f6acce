"""Weights of a module in a smaller dtype, in which it then computes."""

import re
from collections.abc import Callable
from itertools import chain

import torch
from torch.nn.functional import cosine_similarity
from torch.nn.modules.batchnorm import _BatchNorm

from dr_pipeline.errors import ModelError

_ROTARY = re.compile(r"(Rotary|RoPE|Rope)\w*Emb")
"""Names of the classes of rotary positions, in timm and transformers."""


def cast_weights(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Round a module's weights and buffers to `dtype`, in which it then computes; its inputs must have it.

    Batch normalisation and rotary positions stay as they are. torch applies float32 statistics to inputs of another
    dtype; frequencies are multiplied by positions, so that their rounding would grow with each. Means, variances and
    softmax are computed in float32 from rounded inputs, as torch does by itself.
    """
    for part in module.modules():
        if isinstance(part, _BatchNorm) or _ROTARY.search(type(part).__name__):
            continue
        for tensor in chain(part.parameters(recurse=False), part.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)


def cast_and_compare(
    module: torch.nn.Module, dtype: torch.dtype, logits: Callable[[], torch.Tensor], largest_error: float
) -> None:
    """`cast_weights` of a model that writes.

    Raises ModelError where a row of its `logits` [R, V] is then farther from float32's than allowed, as 1 - cosine.
    """
    exact_RV = logits().double()
    cast_weights(module, dtype)
    rounded_RV = logits().double()
    # Their means say nothing.
    exact_RV, rounded_RV = (rows_RV - rows_RV.mean(dim=1, keepdim=True) for rows_RV in (exact_RV, rounded_RV))
    apart = 1 - float(cosine_similarity(rounded_RV, exact_RV, dim=1).min())
    if not apart <= largest_error:  # NaN is farther than anything
        raise ModelError(f"its logits are then {apart:.2g} from float32 (1 - cosine)")
