"""How alike two computations of one thing are, and how far apart a model puts different ones: what to measure it by."""

from collections.abc import Iterable, Sequence
from itertools import takewhile

import torch
import torch.nn.functional as F

Captions = Sequence[Sequence[str]]
"""Of each image some."""

_TIMES_ROUNDING = 4
"""Few captions change by rounding, and their number is a matter of chance."""


def unit(embeddings_RD: torch.Tensor) -> torch.Tensor:
    """The embeddings with norm 1, float32 on the CPU."""
    return F.normalize(embeddings_RD.detach().float().cpu(), dim=-1)


def spread(embeddings_RD: torch.Tensor) -> float:
    """The median distance between the unit vectors of different inputs; 1 where there are not two."""
    units_RD = unit(embeddings_RD).double()
    return float(torch.pdist(units_RD).median()) if len(units_RD) > 1 else 1.0


def deviation(first_RD: torch.Tensor, second_RD: torch.Tensor) -> float:
    """The largest distance between the unit vectors that two computations gave of one input."""
    return float((unit(first_RD) - unit(second_RD)).norm(dim=1).max())


def captions_apart(first: Captions, second: Captions) -> float:
    """The part of the captions' letters that comes after the first difference, from 0 (equal) to 1.

    Both hold as many texts for each image. Captions are written from left to right, so that what rounding has changed
    once is another caption from there on.
    """
    pairs = [pair for texts in zip(first, second, strict=True) for pair in zip(*texts, strict=True)]
    return sum(map(_after_the_first_difference, pairs)) / max(1, len(pairs))


def captions_allowed_apart(written: Captions, again: Iterable[Captions], others: Captions) -> float:
    """How far apart two honest computations of these captions may be, as `captions_apart` measures it.

    Rounding moves a probability, and where a random number lies that near to the border of two tokens, the caption goes
    on otherwise: rare in a trained captioner, sure in one that holds all tokens equally likely. `again` are other
    computations, which differ by rounding alone, `others` are captions of other streams. Where rounding changes
    nothing, nothing may. Else captions must begin alike: neither much less so than those of `again`, nor as little as
    `others`.
    """
    by_rounding = max(captions_apart(written, captions) for captions in again)
    return min(_TIMES_ROUNDING * by_rounding, (by_rounding + captions_apart(written, others)) / 2)


def _after_the_first_difference(pair: tuple[str, str]) -> float:
    alike = sum(1 for _ in takewhile(lambda letters: letters[0] == letters[1], zip(*pair, strict=False)))
    return 1 - alike / max(map(len, pair)) if pair[0] != pair[1] else 0.0
