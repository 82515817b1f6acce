"""What a step of decoding does beside matrix products, as torch's operators; `models.kernels` has the same for a GPU.

Shapes: B images, N captions of each, R = B·N rows, T positions of a cache, W width, H heads, D = W / H, S image tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from dr_pipeline.errors import ModelError
from dr_pipeline.models.choose import Rule, TokensSeen, choose

Pair = tuple[torch.Tensor, torch.Tensor]


class Operations(NamedTuple):
    """One way to compute each; the functions of this module tell what."""

    self_attention: Callable[[torch.Tensor, torch.Tensor, TokensSeen, torch.Tensor | None], torch.Tensor]
    cross_attention: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    add_norm: Callable[[torch.Tensor, torch.Tensor, nn.LayerNorm], Pair]
    choose: Callable[[torch.Tensor, torch.Tensor, TokensSeen, Rule], Pair]


def operations_of(device: torch.device) -> Operations:
    """The kernels on a GPU, torch's operators elsewhere: these take the host's position, and cannot be replayed."""
    return by_kernels() if device.type == "cuda" else BY_TORCH


def by_kernels() -> Operations:
    """The kernels. Triton is imported here: it comes with torch for a GPU, and not with every other.

    Raises ModelError where it is not there.
    """
    try:
        from dr_pipeline.models.kernels import attention, norm
        from dr_pipeline.models.kernels import choose as choice
    except ImportError as error:
        raise ModelError(
            "captions on a GPU are written by kernels of Triton, which is not installed here: pip install triton, or "
            "hide the GPU by CUDA_VISIBLE_DEVICES="
        ) from error

    return Operations(attention.self_attention, attention.cross_attention, norm.add_norm, choice.choose)


def self_attention(
    parts_R3HD: torch.Tensor, cache_2RHTD: torch.Tensor, position: TokensSeen, visible_RT: torch.Tensor | None
) -> torch.Tensor:
    """Add keys and values of a new position to the cache → what its queries attend to, [R, W].

    `parts_R3HD`: queries, keys and values. `visible_RT`: which positions are attended to; None: all so far.
    """
    seen = position.on_host
    queries_RHD, keys_RHD, values_RHD = parts_R3HD.unbind(1)
    cache_2RHTD[0, :, :, seen] = keys_RHD
    cache_2RHTD[1, :, :, seen] = values_RHD
    keys_RHTD, values_RHTD = cache_2RHTD[:, :, :, : seen + 1]
    mask_R11T = None if visible_RT is None else visible_RT[:, None, None, : seen + 1]
    attended_RH1D = F.scaled_dot_product_attention(queries_RHD[:, :, None], keys_RHTD, values_RHTD, attn_mask=mask_R11T)
    return attended_RH1D.transpose(1, 2).flatten(1)


def cross_attention(queries_BNW: torch.Tensor, keys_values_2BHSD: torch.Tensor) -> torch.Tensor:
    """What the captions of each image attend to in it, [B, N, W]."""
    # The captions of an image are its query positions, so that its keys and values are never repeated.
    heads, width = keys_values_2BHSD.shape[2], keys_values_2BHSD.shape[4]
    queries_BHND = queries_BNW.unflatten(-1, (heads, width)).transpose(1, 2)
    return F.scaled_dot_product_attention(queries_BHND, *keys_values_2BHSD).transpose(1, 2).flatten(2)


def add_norm(x_RW: torch.Tensor, change_RW: torch.Tensor, norm: nn.LayerNorm) -> Pair:
    """The sum of both, and the sum normalised; each [R, W]."""
    sum_RW = x_RW + change_RW
    return sum_RW, norm(sum_RW)


BY_TORCH = Operations(self_attention, cross_attention, add_norm, choose)
