"""Prompts of captioners: what a card asks for, and what one sample puts into it."""

import re
from typing import Annotated

from pydantic import AfterValidator

from dr_pipeline.errors import nearest

PLACEHOLDERS = ("alt_text", "key")
LONGEST_ALT_TEXT = 1000
"""Letters of an alt-text in a prompt: about 250 tokens. The web has alt-texts of whole pages."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def _checked(prompt: str) -> str:
    """Raise ValueError for a blank prompt, and for a word in braces that no sample fills in."""
    if not prompt.strip():
        raise ValueError("a prompt has words: leave it out for the model's own")
    for word in _PLACEHOLDER.findall(prompt):
        if word not in PLACEHOLDERS:
            known = " and ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"{{{word}}} is filled in by nothing: there are {known}{nearest(word, PLACEHOLDERS)}")
    return prompt


Prompt = Annotated[str, AfterValidator(_checked)]
"""What is asked of a model. `{alt_text}` and `{key}` stand for a sample's own; other braces are what they are."""


def fill_in(prompt: str, *, key: str, alt_text: str) -> str:
    """The prompt for one sample. Its alt-text is put on one line, and loses the words after `LONGEST_ALT_TEXT`.

    What an alt-text has in braces stays as it is.
    """
    line = " ".join(alt_text.split())
    if len(line) > LONGEST_ALT_TEXT:
        whole, blank, _ = line[:LONGEST_ALT_TEXT].rpartition(" ")
        line = f"{whole if blank else line[:LONGEST_ALT_TEXT]} …"
    values = {"alt_text": line, "key": key}
    return _PLACEHOLDER.sub(lambda placeholder: values.get(placeholder[1], placeholder[0]), prompt)
