"""A model's tokenizer, and bounds on the time and memory that it takes for texts that no tokenizer was written for."""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from open_clip.factory import get_tokenizer, list_models
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, get_clean_fn

from dr_pipeline.config.plugins import load_class
from dr_pipeline.errors import ModelError
from dr_pipeline.networks.architecture import Architecture
from dr_pipeline.networks.files import how_to_get

Tokenizer = Callable[[list[str]], torch.Tensor]
"""T texts → int64 tokens [T, context_length], padded."""

_MOST_CHARACTERS = 1 << 15  # 8192 tokens, as many as the longest text towers take
_LONGEST_WORD = 500
_LONG_WORD = re.compile(rf"(\S{{{_LONGEST_WORD}}})\S+")
_REMEMBERED_WORDS = 1 << 16


def make_tokenizer(architecture: Architecture, tokenizer: str | None, context_length: int) -> Tokenizer:
    """The architecture's own tokenizer, or the `module:Class` that is given. Raises ModelError.

    Models that are alike get the same object, so that their texts need to be made into tokens but once.
    """
    text_config = json.dumps(architecture.config["text_cfg"], sort_keys=True)
    return _make_tokenizer(architecture.name, text_config, tokenizer, context_length)


@lru_cache(maxsize=16)
def _make_tokenizer(model: str, text_config: str, tokenizer: str | None, context_length: int) -> Tokenizer:
    text = json.loads(text_config)
    hub_name, options = text.get("hf_tokenizer_name"), text.get("tokenizer_kwargs") or {}
    own = load_class(tokenizer) if tokenizer is not None else None
    try:
        if own is not None:
            made = own(context_length=context_length)
        elif model in list_models():
            made = get_tokenizer(model, context_length=context_length)
        elif hub_name:
            mode = text.get("tokenizer_mode")
            options = {**options, "trust_remote_code": False}  # a model's files are data
            made = HFTokenizer(hub_name, context_length=context_length, tokenizer_mode=mode, **options)
        else:
            made = SimpleTokenizer(context_length=context_length, **options)
    except Exception as error:
        if own is None and hub_name and isinstance(error, OSError | ImportError):
            help_text = how_to_get(hub_name, "AutoTokenizer", error)
            raise ModelError(
                f"model {model}: its tokenizer: {help_text}. Or set the option tokenizer to a module:Class that reads "
                "a copy of your own"
            ) from error
        raise ModelError(
            f"model {model}: tokenizer {tokenizer or hub_name or 'of open_clip'} cannot be made: {error}"
        ) from error
    held, known = getattr(made, "vocab_size", 0), text.get("vocab_size", 49408)
    if held > known and "hf_model_name" not in text:
        raise ModelError(
            f"model {model}: its tokenizer has {held} tokens but the model knows {known}: set tokenizer to the "
            "module:Class that the model was trained with"
        )
    remember_words(made)
    return made


def truncate_text(text: str) -> str:
    """The first 32,768 characters of a text, with each word cut to its first 500; most texts are unchanged.

    Tokenizers read a whole text before they cut it to a model's context, and CLIP's takes time that grows with the
    square of a word's length: 20 seconds for 10,000 letters without a blank.
    """
    if len(text) <= _LONGEST_WORD:
        return text
    if len(text) > _MOST_CHARACTERS:
        text = text.lstrip()[:_MOST_CHARACTERS]
    return _LONG_WORD.sub(r"\1", text)


@lru_cache(maxsize=16)
def spelling(tokenizer: Any) -> Callable[[list[int]], str]:
    """The tokenizer's `decode` without tokens that spell nothing: special ones, and those beyond its vocabulary.

    Of open_clip's own it is the same text in a third of the time, by a table of bytes.
    """
    words = frozenset(range(tokenizer.vocab_size)) - frozenset(tokenizer.all_special_ids)
    if type(tokenizer) is not SimpleTokenizer:
        return lambda tokens: tokenizer.decode([token for token in tokens if token in words])
    letters, pieces = tokenizer.byte_decoder, tokenizer.decoder
    bytes_of = {word: bytes(letters[letter] for letter in pieces[word]) for word in words}

    def spelt(tokens: list[int]) -> str:
        text = b"".join([bytes_of[token] for token in tokens if token in bytes_of])
        return text.decode("utf-8", errors="replace").replace("</w>", " ")

    return spelt


def remember_words(tokenizer: object) -> None:
    """Let CLIP's tokenizer remember the tokens of words, and of so many alone: the web has new ones without end."""
    if isinstance(tokenizer, SimpleTokenizer):
        tokenizer.cache = _SpecialTokens(tokenizer.cache)
        vars(tokenizer)["encode"] = _WordTokens(tokenizer)


class _SpecialTokens(dict[str, str]):
    """The cache of a tokenizer that another one stands before: it has the special tokens, and takes no word."""

    def __setitem__(self, word: str, pieces: str) -> None:
        """Keep nothing."""


class _WordTokens:
    """`SimpleTokenizer.encode`, four times as fast: words and plain texts make nearly all of the web's captions."""

    def __init__(self, tokenizer: SimpleTokenizer):
        self._tokenizer = tokenizer
        self._tokens: dict[str, list[int]] = {}
        self._lowers = tokenizer.clean_fn is get_clean_fn("lower")

    def __call__(self, text: str) -> list[int]:
        # Of a text of ASCII's signs alone, cleaning changes nothing but blanks, capitals and HTML's entities.
        is_plain = self._lowers and text.isascii() and text.isprintable() and "&" not in text
        cleaned = " ".join(text.split()).lower() if is_plain else self._tokenizer.clean_fn(text)
        tokens: list[int] = []
        for word in self._tokenizer.pat.findall(cleaned):
            known = self._tokens.get(word)
            tokens += self._read(word) if known is None else known
        return tokens

    def _read(self, word: str) -> list[int]:
        tokenizer = self._tokenizer
        signs = "".join(tokenizer.byte_encoder[byte] for byte in word.encode())
        tokens = [tokenizer.encoder[piece] for piece in tokenizer.bpe(signs).split(" ")]
        if len(self._tokens) >= _REMEMBERED_WORDS:
            self._tokens.clear()
        self._tokens[word] = tokens
        return tokens
