"""Decoding for open_clip's CoCa: cached steps of the model, and how each next token is chosen.

Shapes: B images, N captions of each, R = B·N rows, T positions, V tokens in the vocabulary, W width, H heads,
D = W / H, S image tokens.

A caption's tokens are start, words, end. `min_tokens` and `max_tokens` count the words and the end; with the start they
must fit the model's context length, which caps `max_tokens`. The end cannot be chosen before it makes `min_tokens`, and
the last place is kept for it. Temperature divides the logits of every method.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dr_pipeline.errors import ModelError

if TYPE_CHECKING:
    from open_clip.coca_model import CoCa
    from open_clip.transformer import ResidualAttentionBlock

    from dr_pipeline.config.cards import Sampling
    from dr_pipeline.views.seeding import Stream

# Enough for nearly every top-p set of a trained captioner; wider sets fall back to sorting the whole vocabulary.
_TOP_P_CANDIDATES = 256


class KeyValueCache:
    """The keys and values that one self-attention has seen, in a buffer of fixed length."""

    def __init__(self, max_tokens: int):
        self._max_tokens = max_tokens
        self._length = 0
        self._buffer_2RHTD: torch.Tensor | None = None

    def append(self, keys_RH1D: torch.Tensor, values_RH1D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds one position → the keys and the values of all positions so far, each [R, H, t, D]."""
        if self._buffer_2RHTD is None:  # only now are the rows and, under autocast, the dtype known
            rows, heads, _, width = keys_RH1D.shape
            self._buffer_2RHTD = keys_RH1D.new_empty(2, rows, heads, self._max_tokens, width)
        self._buffer_2RHTD[0, :, :, self._length] = keys_RH1D[:, :, 0]
        self._buffer_2RHTD[1, :, :, self._length] = values_RH1D[:, :, 0]
        self._length += 1
        keys_RHTD, values_RHTD = self._buffer_2RHTD[:, :, :, : self._length]
        return keys_RHTD, values_RHTD

    def reorder(self, parents_R: torch.Tensor) -> None:
        """Row r becomes what row parents_R[r] was."""
        if self._buffer_2RHTD is not None:
            seen = self._buffer_2RHTD[:, :, :, : self._length]
            seen.copy_(seen.index_select(1, parents_R))


class CocaDecoder:
    """CoCa's text tower and multimodal decoder, one token per row and step, equal to its forward on whole prefixes.

    An image is encoded once, and its N captions share the keys and values of the cross-attention. The tower's class
    token is left out: it comes last, so no text token attends to it.
    """

    def __init__(self, model: "CoCa", images_BCHW: torch.Tensor, num_captions: int, max_tokens: int):
        self._text = model.text
        self._multimodal = model.text_decoder
        self._num_captions = num_captions
        self._position = 0
        _, image_embs_BSW = model._encode_image(images_BCHW)
        self._image_keys_values = [
            _project(block.attn, block.ln_1_kv(image_embs_BSW), slice(1, 3)) for block in self._multimodal.cross_attn
        ]
        self._text_caches = [KeyValueCache(max_tokens) for _ in self._text.transformer.resblocks]
        self._multimodal_caches = [KeyValueCache(max_tokens) for _ in self._multimodal.resblocks]
        rows = images_BCHW.shape[0] * num_captions
        self._visible_RT = torch.ones(rows, max_tokens + 1, dtype=torch.bool, device=images_BCHW.device)

    def step(self, tokens_BN: torch.Tensor) -> torch.Tensor:
        """The token at the next position of each caption → logits [B, N, V] of the one after it."""
        x_RW = self._text_step(tokens_BN.flatten())
        blocks = zip(self._multimodal.resblocks, self._multimodal.cross_attn, strict=True)
        memories = zip(self._multimodal_caches, self._image_keys_values, strict=True)
        for (block, cross_block), (cache, image_keys_values) in zip(blocks, memories, strict=True):
            x_RW = _self_attention_step(block, x_RW, cache)
            x_RW = self._cross_attention_step(cross_block, x_RW, *image_keys_values)
        self._position += 1
        logits_RV = self._multimodal.ln_final(x_RW) @ self._multimodal.text_projection
        return logits_RV.unflatten(0, tokens_BN.shape)

    def reorder(self, parents_BN: torch.Tensor) -> None:
        """Caption n of image b goes on from what caption parents_BN[b, n] of that image was."""
        firsts_B1 = torch.arange(len(parents_BN), device=parents_BN.device)[:, None] * self._num_captions
        parents_R = (parents_BN + firsts_B1).flatten()
        self._visible_RT = self._visible_RT[parents_R]
        for cache in (*self._text_caches, *self._multimodal_caches):
            cache.reorder(parents_R)

    def _text_step(self, tokens_R: torch.Tensor) -> torch.Tensor:
        text = self._text
        dtype = text.transformer.get_cast_dtype()
        x_RW = text.token_embedding(tokens_R).to(dtype) + text.positional_embedding[self._position].to(dtype)
        visible_R11T = self._text_mask(tokens_R)
        for block, cache in zip(text.transformer.resblocks, self._text_caches, strict=True):
            x_RW = _self_attention_step(block, x_RW, cache, visible_R11T)
        return x_RW if text.cls_emb is not None else text.ln_final(x_RW)

    def _text_mask(self, tokens_R: torch.Tensor) -> torch.Tensor | None:
        """True [R, 1, 1, t] where the tower's padding mask lets a key be seen.

        The padding token is also a word ("!" in CLIP's vocabulary). A tower with a class token hides a key for it, and
        released CoCa weights were trained with that mask shifted by one: the key AFTER a padding token is hidden.
        """
        if self._text.cls_emb is None:
            return None
        masked_key = self._position if self._text.correct_cls_mask else self._position + 1
        self._visible_RT[:, masked_key] = tokens_R != self._text.pad_id
        return self._visible_RT[:, None, None, : self._position + 1]

    def _cross_attention_step(
        self, block: "ResidualAttentionBlock", x_RW: torch.Tensor, keys_BHSD: torch.Tensor, values_BHSD: torch.Tensor
    ) -> torch.Tensor:
        # The captions of an image are its query positions, so that its keys and values are never repeated.
        x_BNW = x_RW.unflatten(0, (-1, self._num_captions))
        (queries_BHND,) = _project(block.attn, block.ln_1(x_BNW), slice(0, 1))
        attended_BHND = F.scaled_dot_product_attention(queries_BHND, keys_BHSD, values_BHSD)
        return _residuals(block, x_BNW, attended_BHND).flatten(0, 1)


def _project(attention: nn.MultiheadAttention, x_RLW: torch.Tensor, parts: slice) -> tuple[torch.Tensor, ...]:
    """Those `parts` of (queries, keys, values) of `x_RLW`, each [R, H, L, D]."""
    width = attention.embed_dim
    rows = slice(parts.start * width, parts.stop * width)
    projected = F.linear(x_RLW, attention.in_proj_weight[rows], attention.in_proj_bias[rows])
    heads = (parts.stop - parts.start, attention.num_heads, attention.head_dim)
    return projected.unflatten(-1, heads).permute(2, 0, 3, 1, 4).unbind(0)


def _self_attention_step(
    block: "ResidualAttentionBlock", x_RW: torch.Tensor, cache: KeyValueCache, visible_R11T: torch.Tensor | None = None
) -> torch.Tensor:
    x_R1W = x_RW[:, None]
    queries, keys, values = _project(block.attn, block.ln_1(x_R1W), slice(0, 3))
    keys_RHTD, values_RHTD = cache.append(keys, values)
    attended_RH1D = F.scaled_dot_product_attention(queries, keys_RHTD, values_RHTD, attn_mask=visible_R11T)
    return _residuals(block, x_R1W, attended_RH1D)[:, 0]


def _residuals(block: "ResidualAttentionBlock", x_RLW: torch.Tensor, attended_RHLD: torch.Tensor) -> torch.Tensor:
    """What an open_clip ResidualAttentionBlock does once its heads have attended."""
    attended_RLW = attended_RHLD.transpose(1, 2).flatten(2)
    x_RLW = x_RLW + block.ls_1(block.attn.out_proj(attended_RLW))
    return x_RLW + block.ls_2(block.mlp(block.ln_2(x_RLW)))


def generate(
    model: "CoCa",
    images_BCHW: torch.Tensor,
    streams: "Sequence[Sequence[Stream]]",
    sampling: "Sampling",
    start_token: int,
    end_token: int,
) -> torch.Tensor:
    """Captions of normalised images → their words as tokens [B, N, `max_tokens` - 1], filled up with the end token.

    Every image has N = len(streams[0]) streams. The methods:

    - "greedy": the likeliest token; the N captions of an image are the same.
    - "top_k": drawn from the tokens as likely as the `top_k`-th likeliest, or likelier (so ties belong to it).
    - "top_p": drawn from the likeliest tokens, at least one and just as many as it takes for their probability to
      reach `top_p`; tokens tied with the least likely of them belong to it.
    - "beam": the N best of `num_beams` (at least N) hypotheses, best first; see `_beam_search`.

    Token t is drawn with the t-th number of its caption's stream, and rows do not mix. So a caption is the same in any
    batch, unless such a number lies within the rounding by which matrix products of different shapes differ.
    Raises ModelError when the logits are not finite.
    """
    context_length = min(model.context_length, model.text.context_length)
    max_words = min(sampling.max_tokens, context_length - 1) - 1
    if max_words < 1:
        raise ModelError(
            f"the captioner's context of {context_length} tokens has no room for start, word and end: name a model "
            "with a longer context_length"
        )
    limits = _Limits(end_token, sampling.min_tokens, max_words)
    num_images, num_captions = len(streams), len(streams[0])
    num_rows = max(sampling.num_beams, num_captions) if sampling.method == "beam" else num_captions
    decoder = CocaDecoder(model, images_BCHW, num_rows, max_words)
    start_BN = torch.full((num_images, num_rows), start_token, device=images_BCHW.device)
    if sampling.method == "beam":
        return _beam_search(decoder, start_BN, limits, sampling.temperature)[:, :num_captions]
    numbers = np.array([[stream.uniforms(max_words) for stream in captions] for captions in streams])
    uniforms_BNT = torch.from_numpy(numbers).to(images_BCHW.device)
    return _sample(decoder, start_BN, uniforms_BNT, limits, sampling)


@dataclass(frozen=True)
class _Limits:
    end_token: int
    min_tokens: int
    max_words: int

    def no_words(self, start_BN: torch.Tensor) -> torch.Tensor:
        """Room for the words of every caption [B, N, T], filled with the end token."""
        return start_BN.new_full((*start_BN.shape, self.max_words), self.end_token)

    def logits(self, logits_BNV: torch.Tensor, num_words: int) -> torch.Tensor:
        """float32 logits of the token after `num_words` words; of the end token -inf where it would come too early."""
        logits_BNV = logits_BNV.float()
        if not logits_BNV.isfinite().all():
            raise ModelError("the captioner's logits are not finite: look for NaN in its weights and in its images")
        if num_words + 1 < self.min_tokens:
            end = torch.tensor([self.end_token], device=logits_BNV.device)
            logits_BNV = logits_BNV.index_fill(-1, end, -torch.inf)
        return logits_BNV


def _sample(
    decoder: CocaDecoder,
    start_BN: torch.Tensor,
    uniforms_BNT: torch.Tensor,
    limits: _Limits,
    sampling: "Sampling",
) -> torch.Tensor:
    words_BNT = limits.no_words(start_BN)
    finished_BN = torch.zeros_like(start_BN, dtype=torch.bool)
    tokens_BN = start_BN
    for t in range(limits.max_words):
        logits_BNV = limits.logits(decoder.step(tokens_BN), num_words=t)
        tokens_BN = choose_tokens(logits_BNV, uniforms_BNT[..., t], sampling)
        tokens_BN = tokens_BN.masked_fill(finished_BN, limits.end_token)
        words_BNT[..., t] = tokens_BN
        finished_BN = tokens_BN == limits.end_token
        if finished_BN.all():
            break
    return words_BNT


def choose_tokens(logits_BNV: torch.Tensor, uniforms_BN: torch.Tensor, sampling: "Sampling") -> torch.Tensor:
    """The next tokens [B, N] by the method of `sampling` (not "beam"); number u draws by the inverse CDF at u."""
    if sampling.method == "greedy":
        return logits_BNV.argmax(-1)
    probs_BNV = (logits_BNV / sampling.temperature).softmax(-1)
    if sampling.method == "top_k":
        least_BN1 = _top_k_least(probs_BNV, sampling.top_k)
    else:
        least_BN1 = _top_p_least(probs_BNV, sampling.top_p)
    kept_BNV = probs_BNV.where(probs_BNV >= least_BN1, 0.0)
    cumulative_BNV = kept_BNV.cumsum(-1, dtype=torch.float64)
    targets_BN1 = uniforms_BN[..., None] * cumulative_BNV[..., -1:]
    return torch.searchsorted(cumulative_BNV, targets_BN1, right=True)[..., 0]


def _top_k_least(probs_BNV: torch.Tensor, top_k: int) -> torch.Tensor:
    return probs_BNV.topk(min(top_k, probs_BNV.shape[-1])).values[..., -1:]


def _top_p_least(probs_BNV: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probability of the last token, from the likeliest down, that it takes to reach `top_p`."""
    vocabulary = probs_BNV.shape[-1]
    for candidates in (min(_TOP_P_CANDIDATES, vocabulary), vocabulary):
        likeliest_BNK = probs_BNV.topk(candidates).values
        reached_BNK = likeliest_BNK.cumsum(-1, dtype=torch.float64) >= top_p
        if reached_BNK[..., -1].all():
            break
    # Where rounding keeps even the whole vocabulary below top_p, all of it is kept.
    last_BN1 = (~reached_BNK).sum(-1, keepdim=True).clamp(max=candidates - 1)
    return likeliest_BNK.gather(-1, last_BN1)


def _beam_search(decoder: CocaDecoder, start_BK: torch.Tensor, limits: _Limits, temperature: float) -> torch.Tensor:
    """The K best hypotheses [B, K, T] by their mean log-probability per token, best first.

    The mean is over words and, once it is chosen, the end token. At each step the finished hypotheses compete with the
    continuations of the others for the K places; the search ends when K finished ones hold them all.
    """
    words_BKT = limits.no_words(start_BK)
    lengths_BK = torch.zeros_like(start_BK)
    finished_BK = torch.zeros_like(start_BK, dtype=torch.bool)
    scores_BK = torch.full_like(start_BK, -torch.inf, dtype=torch.float32)
    scores_BK[:, 0] = 0.0  # all beams start alike: only one may branch
    tokens_BK = start_BK
    for t in range(limits.max_words):
        logits_BKV = limits.logits(decoder.step(tokens_BK), num_words=t)
        log_probs_BKV = (logits_BKV / temperature).log_softmax(-1)
        log_probs_BKV[finished_BK] = -torch.inf
        log_probs_BKV[..., limits.end_token].masked_fill_(finished_BK, 0.0)
        lengths_BK = lengths_BK + ~finished_BK
        totals_BKV = scores_BK[..., None] + log_probs_BKV
        best_BK = (totals_BKV / lengths_BK[..., None]).flatten(1).topk(start_BK.shape[1]).indices
        parents_BK, tokens_BK = best_BK // logits_BKV.shape[-1], best_BK % logits_BKV.shape[-1]
        scores_BK = totals_BKV.flatten(1).gather(1, best_BK)
        lengths_BK = lengths_BK.gather(1, parents_BK)
        words_BKT = words_BKT.gather(1, parents_BK[..., None].expand_as(words_BKT))
        words_BKT[..., t] = tokens_BK
        finished_BK = tokens_BK == limits.end_token
        if finished_BK.all():
            break
        decoder.reorder(parents_BK)
    return words_BKT
