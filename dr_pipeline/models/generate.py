"""Writes captions with open_clip's CoCa: how each next token is chosen.

Shapes: B images, N captions of each (K beams), T words, V tokens in the vocabulary.

A caption's tokens are start, words, end. `min_tokens` and `max_tokens` count the words and the end; with the start they
must fit the model's context length, which caps `max_tokens`. The end cannot be chosen before it makes `min_tokens`, and
the last place is kept for it. Every method divides the logits by the temperature.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from dr_pipeline.errors import ModelError
from dr_pipeline.models.choose import Rule, without_early_end
from dr_pipeline.models.decode import CocaDecoder
from dr_pipeline.models.sampler import Samplers

if TYPE_CHECKING:
    from open_clip.coca_model import CoCa

    from dr_pipeline.config.cards import Sampling
    from dr_pipeline.views.seeding import Stream


@torch.inference_mode()
def generate(
    model: "CoCa",
    images_BCHW: torch.Tensor,
    streams: "Sequence[Sequence[Stream]]",
    sampling: "Sampling",
    start_token: int,
    end_token: int,
    samplers: Samplers | None = None,
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
    `samplers` are what earlier calls for this model have made ready. Raises ModelError where the logits are not finite.
    """
    context_length = min(model.context_length, model.text.context_length)
    max_words = min(sampling.max_tokens, context_length - 1) - 1
    if max_words < 1:
        raise ModelError(
            f"the captioner's context of {context_length} tokens has no room for start, word and end: name a model "
            "with a longer context_length"
        )
    rule = Rule(sampling, end_token)
    if sampling.method == "beam":
        words_BNT, finite = _beam_search(model, images_BCHW, streams, start_token, rule, max_words)
    else:
        samplers = samplers or Samplers()
        words_BNT, finite = samplers.draw(model, images_BCHW, streams, max_words, start_token, rule)
    if not finite:
        raise ModelError("the captioner's logits are not finite: look for NaN in its weights and in its images")
    return words_BNT


def _beam_search(
    model: "CoCa",
    images_BCHW: torch.Tensor,
    streams: "Sequence[Sequence[Stream]]",
    start_token: int,
    rule: Rule,
    max_words: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The N best of K hypotheses [B, N, T] by their mean log-probability per token, best first; were all logits finite?

    The mean is over words and, once it is chosen, the end token. At each step the finished hypotheses compete with the
    continuations of the others for the K places; the search ends when all K are finished.
    """
    sampling, end_token, num_captions = rule.sampling, rule.end_token, len(streams[0])
    num_beams = max(sampling.num_beams, num_captions)
    decoder = CocaDecoder(model, num_beams, max_words)
    decoder.begin(images_BCHW)
    tokens_BK = torch.full((len(streams), num_beams), start_token, device=images_BCHW.device)
    words_BKT = tokens_BK.new_full((*tokens_BK.shape, max_words), end_token)
    lengths_BK = torch.zeros_like(tokens_BK)
    finished_BK = torch.zeros_like(tokens_BK, dtype=torch.bool)
    scores_BK = torch.full_like(tokens_BK, -torch.inf, dtype=torch.float32)
    scores_BK[:, 0] = 0.0  # all beams are the same at first: only one may branch
    finite = torch.ones((), dtype=torch.bool, device=images_BCHW.device)
    for t in range(max_words):
        logits_BKV = decoder.step(tokens_BK).float()
        finite &= logits_BKV.isfinite().all()
        logits_BKV = without_early_end(logits_BKV, decoder.position, rule)
        log_probs_BKV = (logits_BKV / sampling.temperature).log_softmax(-1)
        log_probs_BKV[finished_BK] = -torch.inf
        log_probs_BKV[..., end_token].masked_fill_(finished_BK, 0.0)
        lengths_BK = lengths_BK + ~finished_BK
        totals_BKV = scores_BK[..., None] + log_probs_BKV
        best_BK = (totals_BKV / lengths_BK[..., None]).flatten(1).topk(num_beams).indices
        parents_BK, tokens_BK = best_BK // logits_BKV.shape[-1], best_BK % logits_BKV.shape[-1]
        scores_BK = totals_BKV.flatten(1).gather(1, best_BK)
        lengths_BK = lengths_BK.gather(1, parents_BK)
        words_BKT = words_BKT.gather(1, parents_BK[..., None].expand_as(words_BKT))
        words_BKT[..., t] = tokens_BK
        finished_BK = tokens_BK == end_token
        if finished_BK.all():
            break
        decoder.reorder(parents_BK)
    return words_BKT[:, :num_captions], finite
