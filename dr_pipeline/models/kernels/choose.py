"""The choice of each next token in one kernel, without sorting the vocabulary; `models.choose` has the same in torch.

A token is kept where its logit is at least a threshold: the largest one with which the kept tokens' probability reaches
`top_p`, or their number `top_k`. Tokens tied with the threshold are kept, as the rule demands. Logits are compared by
keys, integers in the order of the floats, so that the search for the threshold is exact: each pass over the vocabulary
cuts the interval of keys in four. The keys of bfloat16 logits have 16 bits, of which a trained captioner's threshold
leaves some tens in question after the first pass, whose cuts lie at fixed distances below the peak.

Weights are probabilities relative to the likeliest token's, in float32. Their sums are taken block by block of the
vocabulary and added in float64, always in one order. Shapes: R captions, V tokens in the vocabulary.
"""

import math

import torch
import triton
import triton.language as tl

from dr_pipeline.models.choose import Rule, TokensSeen, with_one_end

_BLOCK = 2048
_TOP_P, _TOP_K, _GREEDY = range(3)
_METHODS = {"top_p": _TOP_P, "top_k": _TOP_K, "greedy": _GREEDY}


def choose(
    logits_RV: torch.Tensor, uniforms_R: torch.Tensor, position: TokensSeen, rule: Rule
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next tokens [R], and whether each caption's logits are finite [R]: where not, its token means nothing."""
    num_rows, vocabulary = logits_RV.shape
    sampling = rule.sampling
    if sampling.min_tokens:
        logits_RV = _without_other_ends(logits_RV, position, rule)
    tokens_R = torch.empty(num_rows, dtype=torch.int64, device=logits_RV.device)
    finite_R = torch.empty(num_rows, dtype=torch.bool, device=logits_RV.device)
    _choose[(num_rows,)](
        logits_RV.contiguous(),
        uniforms_R.contiguous(),
        position.on_device,
        tokens_R,
        finite_R,
        vocabulary,
        math.log2(math.e) / sampling.temperature,
        float(sampling.top_k) if sampling.method == "top_k" else sampling.top_p,
        rule.end_token,
        sampling.min_tokens,
        METHOD=_METHODS[sampling.method],
        SPARE_BITS=16 if logits_RV.dtype == torch.bfloat16 else 0,
        BLOCK=_BLOCK,
        NUM_BLOCKS=triton.next_power_of_2(triton.cdiv(vocabulary, _BLOCK)),
        num_warps=8,
    )
    return with_one_end(tokens_R, rule), finite_R


def _without_other_ends(logits_RV: torch.Tensor, position: TokensSeen, rule: Rule) -> torch.Tensor:
    """The logits, the least there is for other ends than the one that the kernel bans, where it does."""
    is_early_1, least = position.on_device < rule.sampling.min_tokens, torch.finfo(logits_RV.dtype).min
    logits_RV = logits_RV.clone() if rule.other_ends else logits_RV
    for end in rule.other_ends:
        logits_RV[:, end].masked_fill_(is_early_1, least)
    return logits_RV


@triton.jit
def _choose(  # type: ignore[no-untyped-def]
    logits_ptr, uniforms_ptr, position_ptr, tokens_ptr, finite_ptr, vocabulary, scale, wanted, end_token, min_tokens,
    METHOD: tl.constexpr, SPARE_BITS: tl.constexpr, BLOCK: tl.constexpr, NUM_BLOCKS: tl.constexpr,
):  # fmt: skip
    """One caption's token. `scale`: log2(e) / temperature."""
    row = tl.program_id(0)
    logits_ptr += row.to(tl.int64) * vocabulary
    banned = tl.where(tl.load(position_ptr) < min_tokens, end_token, -1).to(tl.int32)
    peak, least, total = _peak_and_total(logits_ptr, vocabulary, banned, scale, BLOCK)
    tl.store(finite_ptr + row, (least > float("-inf")) & (total < float("inf")))  # NaN compares false

    uniform = tl.load(uniforms_ptr + row).to(tl.float64)
    threshold = _key(peak, SPARE_BITS).to(tl.int64)
    if METHOD == 2:  # _GREEDY: the first of the likeliest
        uniform *= 0.0
    else:
        wanted = wanted * total if METHOD == 0 else wanted
        threshold = _threshold(
            logits_ptr, vocabulary, banned, peak, least, scale, wanted, METHOD, SPARE_BITS, BLOCK
        )  # fmt: skip
    token = _draw(
        logits_ptr, vocabulary, banned, peak, scale, _logit(threshold, SPARE_BITS), uniform, BLOCK, NUM_BLOCKS
    )  # fmt: skip
    tl.store(tokens_ptr + row, tl.minimum(tl.maximum(token, 0), vocabulary - 1).to(tl.int64))


@triton.jit
def _peak_and_total(logits_ptr, vocabulary, banned, scale, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest and the least logit, and the sum of the weights."""
    peaks = tl.full((BLOCK,), float("-inf"), tl.float32)
    leasts = tl.full((BLOCK,), float("inf"), tl.float32)
    totals = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        logits, counted, _ = _load(logits_ptr, start, vocabulary, banned, BLOCK)
        leasts = tl.minimum(leasts, tl.where(counted, logits, float("inf")))
        higher = tl.maximum(peaks, logits)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        totals = totals * tl.exp2((peaks - base) * scale) + tl.exp2((logits - base) * scale)
        peaks = higher
    peak = tl.max(peaks, 0)
    return peak, tl.min(leasts, 0), tl.sum(totals * tl.exp2((peaks - peak) * scale), 0)


@triton.jit
def _threshold(  # type: ignore[no-untyped-def]
    logits_ptr, vocabulary, banned, peak, least, scale, wanted,
    METHOD: tl.constexpr, SPARE_BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest key such that the tokens from it on have at least the weight, or the number, that is `wanted`.

    It lies in [low, high): tokens from `low` on are enough, or all there are, and tokens from `high` on are not.
    """
    low = _key(least, SPARE_BITS).to(tl.int64)
    high = _key(peak, SPARE_BITS).to(tl.int64) + 1
    first = _key(peak - 13.0 / scale, SPARE_BITS).to(tl.int64)
    second = _key(peak - 6.0 / scale, SPARE_BITS).to(tl.int64)
    third = _key(peak - 2.0 / scale, SPARE_BITS).to(tl.int64)
    first = tl.minimum(tl.maximum(first, low), high)
    second = tl.minimum(tl.maximum(second, low), high)
    third = tl.minimum(tl.maximum(third, low), high)
    while high - low > 1:
        from_first, from_second, from_third = _weights_from(
            logits_ptr, vocabulary, banned, peak, scale,
            _logit(first, SPARE_BITS), _logit(second, SPARE_BITS), _logit(third, SPARE_BITS), METHOD, BLOCK,
        )  # fmt: skip
        # A sum that is not a number is not enough, so that the interval shrinks whatever the logits are.
        high = tl.where(from_third >= wanted, high, third)
        high = tl.where(from_second >= wanted, high, second)
        high = tl.where(from_first >= wanted, high, first)
        low = tl.where(from_first >= wanted, first, low)
        low = tl.where(from_second >= wanted, second, low)
        low = tl.where(from_third >= wanted, third, low)
        quarter = tl.maximum((high - low) // 4, 1)
        first = low + quarter
        second = tl.minimum(first + quarter, high - 1)
        third = tl.minimum(second + quarter, high - 1)
    return low


@triton.jit
def _weights_from(  # type: ignore[no-untyped-def]
    logits_ptr, vocabulary, banned, peak, scale, first, second, third,
    METHOD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The weights, or the numbers, of the tokens from each of three logits on."""
    from_first = tl.zeros((BLOCK,), tl.float32)
    from_second = tl.zeros((BLOCK,), tl.float32)
    from_third = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        logits, counted, _ = _load(logits_ptr, start, vocabulary, banned, BLOCK)
        weights = counted.to(tl.float32) if METHOD == 1 else tl.exp2((logits - peak) * scale)
        from_first += tl.where(logits >= first, weights, 0.0)
        from_second += tl.where(logits >= second, weights, 0.0)
        from_third += tl.where(logits >= third, weights, 0.0)
    return tl.sum(from_first, 0), tl.sum(from_second, 0), tl.sum(from_third, 0)


@triton.jit
def _draw(  # type: ignore[no-untyped-def]
    logits_ptr, vocabulary, banned, peak, scale, threshold, uniform,
    BLOCK: tl.constexpr, NUM_BLOCKS: tl.constexpr,
):  # fmt: skip
    """The first token up to which the kept tokens, in the order of the vocabulary, have more than `uniform` of all.

    Where rounding leaves none in its block, the last kept token of it.
    """
    blocks = tl.arange(0, NUM_BLOCKS)
    sums = tl.zeros((NUM_BLOCKS,), tl.float64)
    for start in range(0, vocabulary, BLOCK):
        weights, _ = _kept(logits_ptr, start, vocabulary, banned, peak, scale, threshold, BLOCK)
        sums = tl.where(blocks == start // BLOCK, tl.sum(weights, 0).to(tl.float64), sums)
    ends = tl.cumsum(sums, 0)
    target = uniform * tl.max(ends, 0)
    last = tl.max(tl.where(sums > 0.0, blocks, 0), 0)
    block = tl.minimum(tl.min(tl.where(ends > target, blocks, NUM_BLOCKS), 0), last)
    before = tl.sum(tl.where(blocks < block, sums, 0.0), 0)

    weights, tokens = _kept(
        logits_ptr, block * BLOCK, vocabulary, banned, peak, scale, threshold, BLOCK
    )  # fmt: skip
    reached = before + tl.cumsum(weights.to(tl.float64), 0)
    kept = weights > 0.0
    drawn = tl.min(tl.where(kept & (reached > target), tokens, vocabulary), 0)
    return tl.where(drawn < vocabulary, drawn, tl.max(tl.where(kept, tokens, 0), 0))


@triton.jit
def _kept(  # type: ignore[no-untyped-def]
    logits_ptr, start, vocabulary, banned, peak, scale, threshold, BLOCK: tl.constexpr
):  # fmt: skip
    """A block's weights, 0 where the token is not kept, and its tokens."""
    logits, counted, tokens = _load(logits_ptr, start, vocabulary, banned, BLOCK)
    kept = counted & (logits >= threshold)
    return tl.where(kept, tl.exp2((logits - peak) * scale), 0.0), tokens


@triton.jit
def _load(logits_ptr, start, vocabulary, banned, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A block's float32 logits, which of them count, and its tokens; a logit that does not count is -inf."""
    tokens = start + tl.arange(0, BLOCK)
    inside = tokens < vocabulary
    logits = tl.load(logits_ptr + tokens, inside, float("-inf")).to(tl.float32)  # a finer mask would cut wide reads up
    counted = inside & (tokens != banned)
    return tl.where(counted, logits, float("-inf")), counted, tokens


@triton.jit
def _key(logits, SPARE_BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Integers in the order of float32 numbers, without bits that are always 0; both zeros have one key."""
    bits = (logits + 0.0).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> SPARE_BITS


@triton.jit
def _logit(key, SPARE_BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The least float32 number with this key."""
    bits = (key << SPARE_BITS).to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
