"""Captions by any model that gives the logits of next tokens, for captioners of one's own: docs/captioners.md.

Shapes: B images, N captions of each, K beams, R captions that go on, T words, V tokens in the vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from dr_pipeline.dataset.caption_faults import as_caption
from dr_pipeline.errors import ModelError
from dr_pipeline.models.beams import Beams
from dr_pipeline.models.choose import Rule, TokensSeen, require_finite, uniforms_of, without_repetition
from dr_pipeline.models.operations import Pair, operations_of
from dr_pipeline.models.replay import LateReader

if TYPE_CHECKING:
    from dr_pipeline.config.cards import Sampling
    from dr_pipeline.views.seeding import Stream

Step = Callable[[torch.Tensor], torch.Tensor]
Select = Callable[[torch.Tensor], object]

_SHARE_THAT_STAYS = 0.75
"""Captions that have ended leave the batch where no more than this share goes on: what is kept has to be copied."""
_LAG = 2
"""Steps by which the host is late to learn from a GPU how many captions go on."""


@torch.inference_mode()
def decode(
    logits_BV: torch.Tensor,
    step: Step,
    select: Select,
    streams: "Sequence[Sequence[Stream]]",
    sampling: "Sampling",
    *,
    end_tokens: Sequence[int],
    spell: Callable[[list[int]], str],
) -> list[list[str]]:
    """Write len(streams[b]) captions of image b, the same for every b, as `Captioner.caption` gives them.

    The model has seen each image and its prompt once, and `logits_BV` are those of the first word. From then on there
    is a row a caption, in a cache that belongs to the model:

    - `select(rows_R)`: row r goes on from what row rows_R[r] was. It is called first, to make N rows of each image's,
      then where captions have ended, and with beams at each step. It fits `reorder_cache` of a cache of transformers.
    - `step(tokens_R)`: takes a token of each row → logits [R, V] of the next one; -inf bans a token.

    A token of `end_tokens` ends a caption. `spell` makes text of the tokens before it, which is put on one line. All
    methods of `Sampling` work, and a caption's numbers are its stream's. Raises ModelError where logits are not finite.
    """
    rule, num_words = Rule(sampling, end_tokens[0], tuple(end_tokens[1:])), sampling.max_tokens - 1
    if sampling.method == "beam":
        beams = Beams(len(logits_BV), len(streams[0]), num_words, rule, logits_BV.device)
        words_BNT, are_finite = _search(logits_BV, step, select, beams)
    else:
        uniforms_RT = uniforms_of(streams, num_words, logits_BV.device)
        words_RT, are_finite = _draw(logits_BV, step, select, uniforms_RT, rule)
        words_BNT = words_RT.unflatten(0, (len(streams), -1))
    require_finite(are_finite)
    return [[as_caption(words, end_tokens[0], spell) for words in captions] for captions in words_BNT.tolist()]


def sample_tokens(
    logits_RV: torch.Tensor,
    uniforms_R: torch.Tensor,
    sampling: "Sampling",
    words_RT: torch.Tensor,
    end_tokens: Sequence[int],
) -> torch.Tensor:
    """The next tokens [R] of captions with these words so far, each by a number in [0, 1) of its caption's stream.

    What ends a caption comes as the first of `end_tokens`. Raises ModelError where logits are not finite but -inf, and
    for beam search, which does not choose row by row.
    """
    if sampling.method == "beam":
        raise ModelError("beam search chooses among the rows of an image: use decode")
    rule = Rule(sampling, end_tokens[0], tuple(end_tokens[1:]))
    tokens_R, finite_R = _choose(logits_RV, uniforms_R, words_RT, rule)
    require_finite(finite_R.all())
    return tokens_R


def _choose(logits_RV: torch.Tensor, uniforms_R: torch.Tensor, words_RT: torch.Tensor, rule: Rule) -> Pair:
    """The next tokens [R], and whether each caption's logits are finite [R]."""
    num_words = words_RT.shape[1]
    position = TokensSeen(logits_RV.device)
    position.set(num_words + 1)
    logits_RV = without_repetition(_without_bans(logits_RV), words_RT, num_words, rule)
    return operations_of(logits_RV.device).choose(logits_RV, uniforms_R, position, rule)


def _without_bans(logits_RV: torch.Tensor) -> torch.Tensor:
    """The logits, the least number there is for -inf: what is not finite is an error from here on."""
    return logits_RV.clamp(min=torch.finfo(logits_RV.dtype).min)


def _draw(logits_BV: torch.Tensor, step: Step, select: Select, uniforms_RT: torch.Tensor, rule: Rule) -> Pair:
    """The words of all captions [B·N, T], padded with the end token, and whether all logits were finite."""
    device, (num_rows, num_words) = logits_BV.device, uniforms_RT.shape
    words_RT = torch.full((num_rows, num_words), rule.end_token, device=device)
    are_finite = torch.ones((), dtype=torch.bool, device=device)
    images_R = torch.arange(len(logits_BV), device=device).repeat_interleave(num_rows // len(logits_BV))
    select(images_R)
    logits_RV = logits_BV.index_select(0, images_R)
    places_R = torch.arange(num_rows, device=device)  # of the captions that go on, among all
    ended_R = torch.zeros_like(places_R, dtype=torch.bool)
    reader = LateReader(device, _LAG if device.type == "cuda" else 0)
    for t in range(num_words):
        tokens_R, finite_R = _choose(logits_RV, uniforms_RT[places_R, t], words_RT[places_R, :t], rule)
        are_finite &= (finite_R | ended_R).all()
        tokens_R = tokens_R.masked_fill(ended_R, rule.end_token)
        words_RT[places_R, t] = tokens_R
        ended_R = tokens_R == rule.end_token
        num_going_on = reader.read((~ended_R).sum()[None], default=len(places_R))
        if num_going_on == 0 or t == num_words - 1:
            break
        if num_going_on <= _SHARE_THAT_STAYS * len(places_R):
            going_on_R = (~ended_R).nonzero()[:, 0]
            if not len(going_on_R):  # the last ones ended since the number was asked for: no model takes no rows
                break
            select(going_on_R)
            places_R, tokens_R, ended_R = (rows_R[going_on_R] for rows_R in (places_R, tokens_R, ended_R))
        logits_RV = step(tokens_R)
    return words_RT, are_finite


def _search(logits_BV: torch.Tensor, step: Step, select: Select, beams: Beams) -> Pair:
    """The words of all captions [B, N, T] by beam search, and whether all logits were finite."""
    logits_BKV = _without_bans(logits_BV)[:, None].expand(-1, beams.num_beams, -1)
    images_B1 = torch.arange(len(logits_BV), device=logits_BV.device)[:, None]
    select(images_B1.expand(-1, beams.num_beams).flatten())
    while not beams.extend(logits_BKV):
        select((images_B1 * beams.num_beams + beams.parents_BK).flatten())
        logits_BKV = _without_bans(step(beams.tokens_BK.flatten())).unflatten(0, beams.tokens_BK.shape)
    return beams.best(), beams.are_finite
