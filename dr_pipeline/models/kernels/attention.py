"""Attention of single words in kernels: to a cache up to a position on the device, and to an image of several captions.

`models.operations` has the same in torch. Sums and softmax are in float32, with the running maximum of flash attention.

Shapes: B images, N captions of each, R = B·N rows, T positions of a cache, W width, H heads, D = W / H, S image tokens.
"""

import math

import torch
import triton
import triton.language as tl

from dr_pipeline.models.choose import TokensSeen

_CACHE_BLOCK = 32
_TILE_BYTES = 8192
"""Of keys that a program loads at once; three such tiles and as many of values fit any GPU's shared memory."""


def self_attention(
    parts_R3HD: torch.Tensor, cache_2RHTD: torch.Tensor, position: TokensSeen, visible_RT: torch.Tensor | None
) -> torch.Tensor:
    """Add keys and values of a new position to the cache → what its queries attend to, [R, W].

    `parts_R3HD`: queries, keys and values. `visible_RT`: which positions are attended to; None: all so far.
    """
    num_rows, _, num_heads, width = parts_R3HD.shape
    attended_RW = torch.empty(num_rows, num_heads * width, dtype=parts_R3HD.dtype, device=parts_R3HD.device)
    _attend_to_cache[(num_rows * num_heads,)](
        parts_R3HD.contiguous(),
        cache_2RHTD,
        attended_RW if visible_RT is None else visible_RT,
        position.on_device,
        attended_RW,
        cache_2RHTD.stride(0),
        cache_2RHTD.shape[3],
        0 if visible_RT is None else visible_RT.stride(0),
        num_heads,
        width,
        math.log2(math.e) / math.sqrt(width),
        HAS_MASK=visible_RT is not None,
        BLOCK_T=_CACHE_BLOCK,
        BLOCK_D=triton.next_power_of_2(width),
        num_warps=1,
    )
    return attended_RW


def cross_attention(queries_BNW: torch.Tensor, keys_values_2BHSD: torch.Tensor) -> torch.Tensor:
    """What the captions of each image attend to in it, [B, N, W]; its keys and values are read once for all N."""
    num_images, num_captions, _ = queries_BNW.shape
    _, _, num_heads, num_tokens, width = keys_values_2BHSD.shape
    attended_BNW = torch.empty_like(queries_BNW, memory_format=torch.contiguous_format)
    block_n = min(max(16, triton.next_power_of_2(num_captions)), 64)  # a matrix product has at least 16 rows
    block_d = max(16, triton.next_power_of_2(width))
    block_s = max(16, min(64, _TILE_BYTES // (block_d * keys_values_2BHSD.element_size())))
    _attend_to_image[(num_images * num_heads, triton.cdiv(num_captions, block_n))](
        queries_BNW.contiguous(),
        keys_values_2BHSD,
        attended_BNW,
        keys_values_2BHSD.stride(0),
        num_captions,
        num_heads,
        num_tokens,
        width,
        math.log2(math.e) / math.sqrt(width),
        BLOCK_N=block_n,
        BLOCK_S=block_s,
        BLOCK_D=block_d,
        num_warps=4,
        num_stages=3,
    )
    return attended_BNW


@triton.jit
def _attend_to_cache(  # type: ignore[no-untyped-def]
    parts_ptr, cache_ptr, visible_ptr, position_ptr, attended_ptr,
    values_stride, places, visible_stride, heads, width, scale,
    HAS_MASK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One head of one row. `scale`: log2(e) / sqrt(D), for powers of 2."""
    row = (tl.program_id(0) // heads).to(tl.int64)
    head = tl.program_id(0) % heads
    position = tl.load(position_ptr).to(tl.int32)
    d = tl.arange(0, BLOCK_D)
    inside = d < width
    part = parts_ptr + (row * 3 * heads + head) * width + d
    query = tl.load(part, inside, 0.0).to(tl.float32) * scale
    key = tl.load(part + heads * width, inside, 0.0)
    value = tl.load(part + 2 * heads * width, inside, 0.0)
    keys_ptr = cache_ptr + (row * heads + head) * places * width
    values_ptr = keys_ptr + tl.cast(values_stride, tl.int64)
    tl.store(keys_ptr + position * width + d, key, inside)
    tl.store(values_ptr + position * width + d, value, inside)

    peak = tl.sum(query * key.to(tl.float32), 0)
    if HAS_MASK:
        visible_ptr += row * visible_stride
        peak = tl.where(tl.load(visible_ptr + position) != 0, peak, float("-inf"))
    total = tl.where(peak == float("-inf"), 0.0, 1.0)
    attended = value.to(tl.float32) * total
    for start in range(0, position, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        seen = t < position
        wanted = seen[:, None] & inside[None, :]
        places_TD = t[:, None] * width + d[None, :]
        keys_TD = tl.load(keys_ptr + places_TD, wanted, 0.0).to(tl.float32)
        values_TD = tl.load(values_ptr + places_TD, wanted, 0.0).to(tl.float32)
        if HAS_MASK:
            seen = seen & (tl.load(visible_ptr + t, seen, 0) != 0)
        scores = tl.where(seen, tl.sum(keys_TD * query[None, :], 1), float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - base)
        before = tl.exp2(peak - base)
        total = total * before + tl.sum(weights, 0)
        attended = attended * before + tl.sum(values_TD * weights[:, None], 0)
        peak = higher
    tl.store(attended_ptr + (row * heads + head) * width + d, attended / total, inside)


@triton.jit
def _attend_to_image(  # type: ignore[no-untyped-def]
    queries_ptr, keys_ptr, attended_ptr, values_stride, captions, heads, image_tokens, width, scale,
    BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One head of one image, for a block of its captions. `scale` as above."""
    image = (tl.program_id(0) // heads).to(tl.int64)
    head = tl.program_id(0) % heads
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    rows_ND = ((image * captions + n[:, None]) * heads + head) * width + d[None, :]
    asked_ND = (n < captions)[:, None] & (d < width)[None, :]
    queries_ND = tl.load(queries_ptr + rows_ND, asked_ND, 0.0)
    keys_ptr += (image * heads + head) * image_tokens * width
    values_ptr = keys_ptr + tl.cast(values_stride, tl.int64)

    peaks = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    totals = tl.zeros((BLOCK_N,), tl.float32)
    attended_ND = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, image_tokens, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        places_SD = s[:, None] * width + d[None, :]
        there_SD = (s < image_tokens)[:, None] & (d < width)[None, :]
        keys_SD = tl.load(keys_ptr + places_SD, there_SD, 0.0)
        values_SD = tl.load(values_ptr + places_SD, there_SD, 0.0)
        scores_NS = tl.dot(queries_ND, tl.trans(keys_SD), input_precision="ieee") * scale
        scores_NS = tl.where((s < image_tokens)[None, :], scores_NS, float("-inf"))
        higher = tl.maximum(peaks, tl.max(scores_NS, 1))
        weights_NS = tl.exp2(scores_NS - higher[:, None])
        before = tl.exp2(peaks - higher)
        totals = totals * before + tl.sum(weights_NS, 1)
        attended_ND = attended_ND * before[:, None]
        attended_ND += tl.dot(weights_NS.to(values_SD.dtype), values_SD, input_precision="ieee")
        peaks = higher
    tl.store(attended_ptr + rows_ND, attended_ND / totals[:, None], asked_ND)
