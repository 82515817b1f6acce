"""What may be stored, logged and printed: text without credentials, and without what steers a terminal."""

import re
from typing import Any
from urllib.parse import quote

_USER = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{0,30})://(?P<user>[^\s/'\"]*)@", re.IGNORECASE)
_PARAMETER = re.compile(
    r"(?P<name>\b(?:X-(?:Amz|Goog)-[\w-]{1,40}|sig|AWSAccessKeyId|GoogleAccessId|Key-Pair-Id|Policy|Expires)"
    r"|signature|token|secret|passw(?:or)?d|credential|api_?key)=[^&\s'\"]+",
    re.IGNORECASE,
)

_SHORTEST_SECRET = 8
"""Shorter values are words that also stand elsewhere."""

_hidden: dict[str, str] = {}


def hide(value: str, name: str) -> None:
    """From now on nothing that this process shows quotes the value: `name` stands there."""
    if len(value) >= _SHORTEST_SECRET:
        _hidden[value] = name
        _hidden[quote(value, safe="")] = name


def without_secrets(text: str) -> str:
    """The text without hidden values; its URLs have neither passwords nor the parameters that sign them, but `***`."""
    for value, name in [*_hidden.items()]:
        text = text.replace(value, name)
    return _unsigned(text)


def without_secrets_in(tree: Any) -> Any:
    """A tree as JSON has them, with every URL in it as by `without_secrets`: what is stored is the same everywhere.

    Hidden values are none of it: a tree names what they stand for.
    """
    if isinstance(tree, dict):
        return {key: without_secrets_in(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_secrets_in(value) for value in tree]
    return _unsigned(tree) if isinstance(tree, str) else tree


def printable(text: str) -> str:
    """The text for a terminal: no secrets, and escapes for all that does not print, but for new lines and tabs.

    So a key or a caption can neither colour, move nor overwrite what stands around it, nor turn its direction.
    """
    letters = (
        letter
        if letter.isprintable() or letter in "\n\t"
        else letter.encode("unicode_escape", errors="backslashreplace").decode()
        for letter in without_secrets(text)
    )
    return "".join(letters)


def _without_password(match: re.Match[str]) -> str:
    """A lone word is a token before an http host, and a name elsewhere, as in abfs://container@account."""
    scheme, user = match["scheme"], match["user"]
    name, colon, _ = user.partition(":")
    if scheme.lower() in ("http", "https") and not colon:
        return f"{scheme}://***@"
    return f"{scheme}://{name}:***@" if colon else match[0]


def _unsigned(text: str) -> str:
    return _PARAMETER.sub(r"\g<name>=***", _USER.sub(_without_password, text))
