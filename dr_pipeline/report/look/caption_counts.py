"""Lengths and words of captions, kind by kind."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from dr_pipeline.dataset.caption_faults import faults

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_MOST_LETTERS = 10_000
"""Of one caption that are looked at."""
_MOST_WORDS = 200_000
"""That are kept apart; when there are more, those that came once are forgotten."""
_COMMON = "a an and are as at by for from in is it its of on or s that the this to with"
"""Words that no caption is told by."""


@dataclass
class CaptionCounts:
    """The captions of one kind: the alt-texts, or those of a key of `syn.json`."""

    num_samples: int = 0
    num_captions: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """Words of a caption → captions."""
    words: Counter[str] = field(default_factory=Counter)
    """Word, in small letters → captions that have it; without articles and the like."""
    faults: Counter[str] = field(default_factory=Counter)
    """Fault, as of `caption_faults`, that the texts show → captions."""

    def add(self, captions: Iterable[str]) -> None:
        """Count those of one sample."""
        captions = [*captions]
        self.num_samples += 1
        self.num_captions += len(captions)
        self.faults.update(faults(captions))
        for caption in captions:
            words = [word.casefold() for word in _WORD.findall(caption[:_MOST_LETTERS])]
            self.lengths[len(words)] += 1
            self.words.update({*words}.difference(_COMMON.split()))
        if len(self.words) > _MOST_WORDS:
            self.words = Counter({word: count for word, count in self.words.items() if count > 1})
