"""Weights of a module in a smaller dtype, in which it then computes."""

import re
from itertools import chain

import torch
from torch.nn.modules.batchnorm import _BatchNorm

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
