"""The choice of each next token from its logits, as torch computes it; `kernels.choose` is the same for a GPU.

Shapes: R captions, T words, V tokens in the vocabulary, K likeliest tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from dr_pipeline.errors import ModelError

if TYPE_CHECKING:
    from dr_pipeline.config.cards import Sampling
    from dr_pipeline.views.seeding import Stream

# Enough for nearly every top-p set of a trained captioner; wider sets fall back to sorting the whole vocabulary.
_TOP_P_CANDIDATES = 256


class Rule(NamedTuple):
    """How tokens are chosen: by the method of `sampling`, not "beam", and no end before `sampling.min_tokens`."""

    sampling: "Sampling"
    end_token: int
    other_ends: tuple[int, ...] = ()
    """More tokens that end a caption, which are no different: where one is chosen, `end_token` is given."""


class TokensSeen:
    """How many tokens of each caption the decoder has seen, the start token among them.

    It is kept twice: torch's operators take it from the host; kernels take it from the device, where a replayed CUDA
    graph raises it too.
    """

    def __init__(self, device: torch.device):
        self.on_host = 0
        self.on_device = torch.zeros(1, dtype=torch.int64, device=device)

    def set(self, count: int) -> None:
        """The decoder has seen so many tokens."""
        self.on_host = count
        self.on_device.fill_(count)

    def advance(self) -> None:
        """It has seen one more."""
        self.on_host += 1
        self.on_device += 1


def choose(
    logits_RV: torch.Tensor, uniforms_R: torch.Tensor, position: TokensSeen, rule: Rule
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next tokens [R], and whether each caption's logits are finite [R]: where not, its token means nothing."""
    finite_R = logits_RV.isfinite().all(-1)
    logits_RV = without_early_end(logits_RV.float(), position, rule)
    tokens_R = choose_tokens(logits_RV, uniforms_R, rule.sampling).clamp(max=logits_RV.shape[-1] - 1)
    return with_one_end(tokens_R, rule), finite_R


def without_early_end(logits_RV: torch.Tensor, position: TokensSeen, rule: Rule) -> torch.Tensor:
    """The logits, those of end tokens -inf where a caption that ended here would have less than `min_tokens`."""
    if position.on_host >= rule.sampling.min_tokens:
        return logits_RV
    logits_RV = logits_RV.clone()
    for end in (rule.end_token, *rule.other_ends):
        logits_RV[..., end] = -torch.inf  # a list of them would be copied to the device, and waited for
    return logits_RV


def with_one_end(tokens_R: torch.Tensor, rule: Rule) -> torch.Tensor:
    """The tokens, each that ends a caption as `end_token`."""
    for end in rule.other_ends:
        tokens_R = tokens_R.masked_fill(tokens_R == end, rule.end_token)
    return tokens_R


def without_repetition(
    logits_RV: torch.Tensor, words_RT: torch.Tensor, num_words: int | torch.Tensor, rule: Rule
) -> torch.Tensor:
    """The logits, lowered where a token is among a caption's first `num_words`, an integer or a tensor of one.

    A positive logit is divided by `repetition_penalty`, a negative one multiplied (Keskar et al. 2019,
    https://arxiv.org/abs/1909.05858, section 4.1). Words after the first ones may be anything, so that a buffer of
    fixed size does, and a CUDA graph can replay this: nothing is asked of the device. A caption that has ended may have
    end tokens among its words, which count for nothing.
    """
    if rule.sampling.repetition_penalty == 1.0:
        return logits_RV
    is_written_T = torch.arange(words_RT.shape[1], device=words_RT.device) < num_words
    words_RT = words_RT.where(is_written_T, rule.end_token)
    before_RT = logits_RV.gather(1, words_RT).float()
    penalty = rule.sampling.repetition_penalty
    lowered_RT = torch.where(before_RT > 0, before_RT / penalty, before_RT * penalty)
    lowered_RT = lowered_RT.where(words_RT != rule.end_token, before_RT)
    return logits_RV.scatter(1, words_RT, lowered_RT.to(logits_RV.dtype))


def choose_tokens(logits_RV: torch.Tensor, uniforms_R: torch.Tensor, sampling: "Sampling") -> torch.Tensor:
    """The next tokens [R] of float32 logits. A uniform number u draws the inverse CDF at u. Any more dimensions do."""
    if sampling.method == "greedy":
        return logits_RV.argmax(-1)
    probs_RV = (logits_RV / sampling.temperature).softmax(-1)
    if sampling.method == "top_k":
        least_R1 = probs_RV.topk(min(sampling.top_k, probs_RV.shape[-1])).values[..., -1:]
    else:
        least_R1 = _top_p_least(probs_RV, sampling.top_p)
    kept_RV = probs_RV.where(probs_RV >= least_R1, 0.0)
    cumulative_RV = kept_RV.cumsum(-1, dtype=torch.float64)
    targets_R1 = uniforms_R[..., None] * cumulative_RV[..., -1:]
    return torch.searchsorted(cumulative_RV, targets_R1, right=True)[..., 0]


def _top_p_least(probs_RV: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probability [R, 1] of the token with which the likeliest ones, in descending order, reach `top_p`."""
    vocabulary = probs_RV.shape[-1]
    for candidates in (min(_TOP_P_CANDIDATES, vocabulary), vocabulary):
        likeliest_RK = probs_RV.topk(candidates).values
        reached_RK = likeliest_RK.cumsum(-1, dtype=torch.float64) >= top_p
        if reached_RK[..., -1].all():
            break
    # Rounding may leave the whole vocabulary below top_p: then all of it is kept.
    last_R1 = (~reached_RK).sum(-1, keepdim=True).clamp(max=candidates - 1)
    return likeliest_RK.gather(-1, last_R1)


def uniforms_of(streams: "Sequence[Sequence[Stream]]", num_words: int, device: torch.device) -> torch.Tensor:
    """The numbers [R, T] by which the words of all images' captions are drawn; a GPU may still be getting them."""
    numbers = torch.from_numpy(np.array([stream.uniforms(num_words) for row in streams for stream in row]))
    numbers = numbers.pin_memory() if device.type == "cuda" else numbers
    return numbers.to(device, non_blocking=True)


def require_finite(are_finite: torch.Tensor) -> None:
    """Raise ModelError unless all logits were."""
    if not are_finite:
        raise ModelError("the captioner's logits are not finite: look for NaN in its weights and in its images")
