"""What models read of a text: all of it, unless it is one that no tokenizer was written for."""

import re

from open_clip.tokenizer import SimpleTokenizer

_MOST_CHARACTERS = 1 << 15  # 8192 tokens, as many as the longest text towers take
_LONGEST_WORD = 500
_REMEMBERED_WORDS = 1 << 16
_LONG_WORD = re.compile(rf"(\S{{{_LONGEST_WORD}}})\S+")


def beginning(text: str) -> str:
    """A text's first 32,768 characters, and of each word in it the first 500; the same text where that is all of it.

    Tokenizers read a text to its end before they cut it to a model's context, and the time of CLIP's grows with the
    square of a word's length: 20 seconds for 10,000 letters without a blank.
    """
    if len(text) <= _LONGEST_WORD:
        return text
    if len(text) > _MOST_CHARACTERS:
        text = text.lstrip()[:_MOST_CHARACTERS]
    return _LONG_WORD.sub(r"\1", text)


def bound_memory(tokenizer: object) -> None:
    """CLIP's tokenizer remembers every word it has seen, and the web's texts have new ones without end."""
    if isinstance(tokenizer, SimpleTokenizer):
        tokenizer.cache = _Words(tokenizer.cache)


class _Words(dict[str, str]):
    """Word → its pieces; forgets all but the special tokens, which stand for themselves, when it is full."""

    def __setitem__(self, word: str, pieces: str) -> None:
        if len(self) >= _REMEMBERED_WORDS:
            special = {token: same for token, same in self.items() if token == same}
            self.clear()
            self.update(special)
        super().__setitem__(word, pieces)
