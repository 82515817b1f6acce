"""Writes captions with open_clip's CoCa: how each next token is chosen.

Shapes: B images, N captions of each, K beams, T words.

A caption's tokens are start, words, end. `min_tokens` and `max_tokens` count the words and the end; with the start they
must fit the model's context length, which caps `max_tokens`. The end cannot be chosen before it makes `min_tokens`, and
the last place is kept for it. Every method first lowers the logits of words that the caption has already, where there
is a `repetition_penalty`, and then divides all by the temperature.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from dr_pipeline.errors import ModelError
from dr_pipeline.models.beams import Beams
from dr_pipeline.models.choose import Rule, require_finite
from dr_pipeline.models.coca_decoder import CocaDecoder
from dr_pipeline.models.coca_sampler import Samplers

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
    - "beam": the N best of `num_beams` (at least N) hypotheses, best first, or the best of each group; see `beams`.

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
        words_BNT, finite = _beam_search(model, images_BCHW, len(streams[0]), start_token, rule, max_words)
    else:
        samplers = samplers or Samplers()
        words_BNT, finite = samplers.draw(model, images_BCHW, streams, max_words, start_token, rule)
    require_finite(finite)
    return words_BNT


def _beam_search(
    model: "CoCa",
    images_BCHW: torch.Tensor,
    num_captions: int,
    start_token: int,
    rule: Rule,
    max_words: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The N best hypotheses [B, N, T] as `beams` says, and whether all logits were finite."""
    beams = Beams(len(images_BCHW), num_captions, max_words, rule, images_BCHW.device)
    decoder = CocaDecoder(model, beams.num_beams, max_words)
    decoder.begin(images_BCHW)
    tokens_BK = torch.full((len(images_BCHW), beams.num_beams), start_token, device=images_BCHW.device)
    while not beams.extend(decoder.step(tokens_BK)):
        decoder.reorder(beams.parents_BK)
        tokens_BK = beams.tokens_BK
    return beams.best(), beams.are_finite
