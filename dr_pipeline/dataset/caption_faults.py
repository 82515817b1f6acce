"""Faults of captions: blank, repeating, or cut at the limit of tokens."""

import html
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from operator import eq

from dr_pipeline.words import plural

FAULTS = {"blank": "blank", "repeating": "repeating themselves", "cut": "cut at the limit of tokens"}
"""Fault → how a message describes captions with it."""

_NO_SIGNS = ("Cc", "Cf", "Zs", "Zl", "Zp")  # control, format (zero width, byte order mark), blanks
_FILLERS = {"\u034f", "\u115f", "\u1160", "\u2800", "\u3164", "\uffa0", *map(chr, range(0xFE00, 0xFE10))}
"""Letters and marks that are drawn as nothing: joiners, Hangul fillers, Braille's blank, variation selectors."""

_LONGEST_PHRASE = 8


class CutCaption(str):
    """A caption that ended at the limit of tokens, and not by its own end."""


def as_caption(words: list[int], end_token: int, spell: Callable[[list[int]], str]) -> str:
    """The text of the words before the first end token, on one line with single spaces; cut where there is none."""
    is_cut = end_token not in words
    text = " ".join(spell(words if is_cut else words[: words.index(end_token)]).split())
    return CutCaption(text) if is_cut else text


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: only blanks, control and zero-width characters, or HTML entities of these."""
    return all(unicodedata.category(sign) in _NO_SIGNS or sign in _FILLERS for sign in html.unescape(text))


def repeats_itself(text: str) -> bool:
    """Whether a phrase of up to eight words comes three times or more in a row, and makes four words or more."""
    words = text.casefold().split()
    for length in range(1, _LONGEST_PHRASE + 1):
        if sum(map(eq, words[length:], words)) < max(2 * length, 3):  # as of nearly all texts
            continue
        same = 0
        for word, earlier in zip(words[length:], words, strict=False):
            same = same + 1 if word == earlier else 0
            if same >= max(2 * length, 3):
                return True
    return False


def is_degenerate(caption: str) -> bool:
    """Whether a caption is to be drawn again."""
    return is_blank(caption) or repeats_itself(caption)


def faults(captions: Iterable[str]) -> dict[str, int]:
    """Fault → how many of the captions have it; faults of none are left out. A caption may have two."""
    found: Counter[str] = Counter()
    for caption in captions:
        found["blank"] += is_blank(caption)
        found["repeating"] += repeats_itself(caption)
        found["cut"] += isinstance(caption, CutCaption)
    return {fault: found[fault] for fault in FAULTS if found[fault]}


def describe_faults(key: str, found: Mapping[str, int], num_captions: int) -> str:
    """One line about a captioner's captions."""
    parts = [f"{found[fault]} {words}" for fault, words in FAULTS.items() if found.get(fault)]
    return f"{key}: {plural(num_captions, 'caption')}, {', '.join(parts) or 'none blank, repeating itself or cut'}"
