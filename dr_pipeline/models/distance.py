"""How far apart two computations of one thing are, and how far apart a model puts different things.

Shapes: R rows, D columns.
"""

from collections.abc import Iterable, Sequence
from itertools import takewhile

import torch
import torch.nn.functional as F

CaptionLists = Sequence[Sequence[str]]
"""For each image its captions."""

_TIMES_ROUNDING = 4
"""Rounding changes few captions, and how many is a matter of chance."""


def unit_rows(rows_RD: torch.Tensor) -> torch.Tensor:
    """The rows with norm 1, float32 on the CPU."""
    return F.normalize(rows_RD.detach().float().cpu(), dim=-1)


def spread(rows_RD: torch.Tensor) -> float:
    """The median distance between rows, each of another input; 1 where there are not two."""
    return float(torch.pdist(rows_RD.double()).median()) if len(rows_RD) > 1 else 1.0


def largest_distance(first_RD: torch.Tensor, second_RD: torch.Tensor) -> float:
    """The largest distance between the two rows of one input, over all inputs."""
    return float((first_RD - second_RD).norm(dim=1).max())


def caption_distance(first: CaptionLists, second: CaptionLists) -> float:
    """The share of a caption's letters that follow the first difference: the mean of all captions, 0 where all agree.

    Both hold as many captions of each image. A caption is written from left to right, so that what rounding has changed
    once is another caption from there on.
    """
    pairs = [pair for captions in zip(first, second, strict=True) for pair in zip(*captions, strict=True)]
    total = 0.0
    for one, other in pairs:
        num_equal = sum(1 for _ in takewhile(lambda letters: letters[0] == letters[1], zip(one, other, strict=False)))
        total += 1 - num_equal / max(len(one), len(other)) if one != other else 0.0
    return total / max(1, len(pairs))


def allowed_caption_distance(written: CaptionLists, again: Iterable[CaptionLists], others: CaptionLists) -> float:
    """The largest `caption_distance` that rounding explains.

    `again` are captions of the same images and random numbers, computed otherwise; `others` are captions of other
    images or random numbers.

    Where a random number lies within rounding of the border between two tokens, the caption goes on otherwise: rare
    with a trained captioner, certain with one that holds all tokens equally likely. Where rounding changes nothing, no
    difference is allowed. Else captions must begin alike: at most four times as far apart as `again` are, and closer to
    `again` than to `others`.
    """
    by_rounding = max(caption_distance(written, captions) for captions in again)
    return min(_TIMES_ROUNDING * by_rounding, (by_rounding + caption_distance(written, others)) / 2)
