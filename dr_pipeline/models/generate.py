"""Writes captions with open_clip's CoCa: how each next token is chosen.

Shapes: B images, N captions of each (K beams), T words, V tokens in the vocabulary.

A caption's tokens are start, words, end. `min_tokens` and `max_tokens` count the words and the end; with the start they
must fit the model's context length, which caps `max_tokens`. The end cannot be chosen before it makes `min_tokens`, and
the last place is kept for it. Every method divides the logits by the temperature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dr_pipeline.errors import ModelError
from dr_pipeline.models.decode import CocaDecoder

if TYPE_CHECKING:
    from open_clip.coca_model import CoCa

    from dr_pipeline.config.cards import Sampling
    from dr_pipeline.views.seeding import Stream

# Enough for nearly every top-p set of a trained captioner; wider sets fall back to sorting the whole vocabulary.
_TOP_P_CANDIDATES = 256


def generate(
    model: "CoCa",
    images_BCHW: torch.Tensor,
    streams: "Sequence[Sequence[Stream]]",
    sampling: "Sampling",
    start_token: int,
    end_token: int,
) -> torch.Tensor:
    """Write captions of normalised images → their words as tokens [B, N, `max_tokens` - 1], padded with the end token.

    Every image has N = len(streams[0]) streams. The methods:

    - "greedy": the likeliest token; the N captions of an image are the same.
    - "top_k": a draw from the tokens that are as likely as the `top_k`-th likeliest, or likelier: ties are included.
    - "top_p": a draw from the likeliest tokens, the fewest whose probability reaches `top_p`, and at least one. Tokens
      tied with the least likely of them are included.
    - "beam": the N best of `num_beams` (at least N) hypotheses, best first; see `_beam_search`.

    Token t is drawn with the t-th number of its caption's stream, and rows do not mix. So a caption is the same in any
    batch, unless such a number lies within the rounding by which matrix products of different shapes differ.
    Raises ModelError where the logits are not finite.
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
    """The bounds of a caption's length."""

    end_token: int
    min_tokens: int
    max_words: int

    def new_words(self, start_BN: torch.Tensor) -> torch.Tensor:
        """The words [B, N, T] of captions that have none: end tokens."""
        return start_BN.new_full((*start_BN.shape, self.max_words), self.end_token)

    def apply(self, logits_BNV: torch.Tensor, num_words: int) -> torch.Tensor:
        """float32 logits of the token after `num_words` words: -inf for the end token where it would be too early."""
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
    """Draw a token a step for each caption, until all have ended."""
    words_BNT = limits.new_words(start_BN)
    finished_BN = torch.zeros_like(start_BN, dtype=torch.bool)
    tokens_BN = start_BN
    for t in range(limits.max_words):
        logits_BNV = limits.apply(decoder.step(tokens_BN), num_words=t)
        tokens_BN = choose_tokens(logits_BNV, uniforms_BNT[..., t], sampling)
        tokens_BN = tokens_BN.masked_fill(finished_BN, limits.end_token)
        words_BNT[..., t] = tokens_BN
        finished_BN = tokens_BN == limits.end_token
        if finished_BN.all():
            break
    return words_BNT


def choose_tokens(logits_BNV: torch.Tensor, uniforms_BN: torch.Tensor, sampling: "Sampling") -> torch.Tensor:
    """The next tokens [B, N] by the method of `sampling`, not "beam". A uniform number u draws the inverse CDF at u."""
    if sampling.method == "greedy":
        return logits_BNV.argmax(-1)
    probs_BNV = (logits_BNV / sampling.temperature).softmax(-1)
    if sampling.method == "top_k":
        least_BN1 = probs_BNV.topk(min(sampling.top_k, probs_BNV.shape[-1])).values[..., -1:]
    else:
        least_BN1 = _top_p_least(probs_BNV, sampling.top_p)
    kept_BNV = probs_BNV.where(probs_BNV >= least_BN1, 0.0)
    cumulative_BNV = kept_BNV.cumsum(-1, dtype=torch.float64)
    targets_BN1 = uniforms_BN[..., None] * cumulative_BNV[..., -1:]
    return torch.searchsorted(cumulative_BNV, targets_BN1, right=True)[..., 0]


def _top_p_least(probs_BNV: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probability [B, N, 1] of the token with which the likeliest ones, in descending order, reach `top_p`."""
    vocabulary = probs_BNV.shape[-1]
    for candidates in (min(_TOP_P_CANDIDATES, vocabulary), vocabulary):
        likeliest_BNK = probs_BNV.topk(candidates).values
        reached_BNK = likeliest_BNK.cumsum(-1, dtype=torch.float64) >= top_p
        if reached_BNK[..., -1].all():
            break
    # Rounding may leave the whole vocabulary below top_p: then all of it is kept.
    last_BN1 = (~reached_BNK).sum(-1, keepdim=True).clamp(max=candidates - 1)
    return likeliest_BNK.gather(-1, last_BN1)


def _beam_search(decoder: CocaDecoder, start_BK: torch.Tensor, limits: _Limits, temperature: float) -> torch.Tensor:
    """The K best hypotheses [B, K, T] by their mean log-probability per token, best first.

    The mean is over words and, once it is chosen, the end token. At each step the finished hypotheses compete with the
    continuations of the others for the K places; the search ends when all K are finished.
    """
    words_BKT = limits.new_words(start_BK)
    lengths_BK = torch.zeros_like(start_BK)
    finished_BK = torch.zeros_like(start_BK, dtype=torch.bool)
    scores_BK = torch.full_like(start_BK, -torch.inf, dtype=torch.float32)
    scores_BK[:, 0] = 0.0  # all beams are the same at first: only one may branch
    tokens_BK = start_BK
    for t in range(limits.max_words):
        logits_BKV = limits.apply(decoder.step(tokens_BK), num_words=t)
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
