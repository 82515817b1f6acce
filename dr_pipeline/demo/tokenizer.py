"""A word-level tokenizer of a few hundred words, for the demo's teachers.

Ids: 0 is padding and nothing else (open_clip's CoCa masks by it), 1 an unknown word, then the lines of
vocabulary.txt, then start and, highest of all, end of text (text towers that pool by argmax look for the highest id).
"""

import re
from collections.abc import Iterable
from importlib import resources

import torch

PIECE = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]")
UNKNOWN = "<unk>"


class WordTokenizer:
    """Callable as open_clip's tokenizers are: text or list of T texts → int64 tokens [T, context_length]."""

    def __init__(self, context_length: int = 32):
        words = (resources.files(__package__) / "vocabulary.txt").read_text(encoding="utf-8").split()
        self.words = ("<pad>", UNKNOWN, *words, "<start>", "<end>")
        self.context_length = context_length
        self.vocab_size = len(self.words)
        self.pad_token_id = 0
        self.unk_token_id = 1
        self.sot_token_id = self.vocab_size - 2
        self.eot_token_id = self.vocab_size - 1
        self.all_special_ids = [self.pad_token_id, self.sot_token_id, self.eot_token_id]
        self._ids = {word: index for index, word in enumerate(words, start=2)}

    def encode(self, text: str) -> list[int]:
        """The ids of a text's words, digits and signs, case ignored, without start and end."""
        return [self._ids.get(piece, self.unk_token_id) for piece in PIECE.findall(text.lower())]

    def decode(self, ids: Iterable[int]) -> str:
        """The words of `ids`, special ids left out, signs attached to the word before them."""
        words = [self.words[int(index)] for index in ids if int(index) not in self.all_special_ids]
        return re.sub(r" ([,.%!?])", r"\1", " ".join(words))

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> torch.Tensor:
        """Start, words, end, padding; a longer text loses its last words, never its end token."""
        texts = [texts] if isinstance(texts, str) else texts
        length = context_length or self.context_length
        tokens_TL = torch.full((len(texts), length), self.pad_token_id, dtype=torch.long)
        for row, text in zip(tokens_TL, texts, strict=True):
            ids = [self.sot_token_id, *self.encode(text)[: length - 2], self.eot_token_id]
            row[: len(ids)] = torch.tensor(ids)
        return tokens_TL
