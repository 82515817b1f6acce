"""What a chat model's own signs are, such as <|im_end|>: none may come from a prompt, and some end an answer."""

import re
from collections.abc import Callable, Iterable
from typing import Any


def without_signs(prompt: str, tokenizer: Any, others: Iterable[str] = ()) -> str:
    """A prompt without the model's special tokens and `others`: an alt-text must end no turn, and show no image."""
    signs = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} | {*others}
    found = "|".join(re.escape(sign) for sign in sorted(signs - {""}, key=len, reverse=True))
    return re.sub(found, " ", prompt) if found else prompt


def end_tokens(tokenizer: Any, conversation: Callable[[str, str], str]) -> list[int]:
    """The end of a text, and the sign with which begins what the model's template has behind an answer, if one does.

    `conversation`: a prompt and an answer → both, as the template has them.
    """
    behind = conversation("?", "!!").rpartition("!!")[2]
    ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    added = tokenizer.added_tokens_decoder
    tokens = tokenizer.encode(behind, add_special_tokens=False)[:1]
    return [*ends, *(token for token in tokens if token in added and added[token].special)]
