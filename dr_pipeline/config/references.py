"""References in options: `${env:NAME}` is an environment variable's value, and `${file:PATH}` a file's text.

The reference is stored, sent and shown. Each process resolves it where it builds the model or opens the storage, so
that a job file can be given away, and a worker can have its own credential. An option that looks like a secret is
refused, because options are stored.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from dr_pipeline.errors import ConfigError
from dr_pipeline.redaction import hide

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_KINDS = ("env", "file")
_LONGEST_TEXT = 1 << 20

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_SECRET_WORDS = {"password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "authorization",
                 "bearer", "apikey", "pwd", "passwords"}  # fmt: skip
_SECRET_PAIRS = {f"{first} {key}" for first in ("api", "access", "account", "auth", "private", "secret", "subscription")
                 for key in ("key", "keys")}  # fmt: skip
_SECRET_PAIRS |= {f"{first} token" for first in ("access", "api", "auth", "bearer", "hf", "hub", "id", "refresh",
                                                 "security", "session", "user")}  # fmt: skip
_SECRET_SHAPES = re.compile(
    r"\b(sk-[\w-]{20,}|hf_\w{30,}|gh[pousr]_\w{36,}|github_pat_\w{30,}|glpat-[\w-]{20,}|xox[abprs]-[\w-]{10,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{35}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+|(?:Bearer|Basic) [\w+/=.-]{12,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_RUN = re.compile(r"[A-Za-z0-9+]{24,}={0,2}")
_RANDOM_BITS = 3.8
"""The entropy in bits per letter from which a run of letters and digits looks random; words and names have less."""


def resolve(tree: Any, where: str) -> Any:
    """A JSON-like tree with its references replaced by their values, which are hidden in all that is shown from now on.

    Raises ConfigError naming the field, which begins with `where`, and a reference without a value here.
    """
    if isinstance(tree, Mapping):
        return {key: resolve(value, f"{where}.{key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [resolve(value, f"{where}.{index}") for index, value in enumerate(tree)]
    if not isinstance(tree, str):
        return tree
    return _REFERENCE.sub(lambda match: _value(match[0], where), tree)


def has_references(tree: Any) -> bool:
    """Whether a tree holds a reference."""
    return any(_REFERENCE.search(text) for _, text in texts(tree))


def texts(tree: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a tree but empty ones, by its dotted name, such as `headers.0.value`."""
    yield from ((field, value) for field, value in _values(tree, name) if isinstance(value, str) and value)


def wrong_options(options: Any, where: str) -> Iterator[str]:
    """What is wrong with a plug-in's options, as `field: sentence`: a secret, or a reference of no known kind."""
    yield from wrong_references(options, where)
    for field, value in _values(options, where):
        if value in (None, "") or isinstance(value, bool):
            continue
        plain = _REFERENCE.sub("", str(value))  # what stands beside a reference may be one too
        is_named = any(map(_names_a_secret, field.removeprefix(where).split(".")))
        if (is_named and plain == str(value)) or _is_like_a_secret(plain):
            yield (
                f"{field}: this looks like a secret, and options are stored with the output: set an environment "
                "variable on every worker and write ${env:NAME} here, or ${file:PATH} for a file that holds it"
            )


def wrong_references(tree: Any, where: str) -> Iterator[str]:
    """References of no known kind, as `field: sentence`."""
    for field, text in texts(tree, where):
        for match in _REFERENCE.finditer(text):
            kind, colon, name = match[1].partition(":")
            if not colon or not name or kind not in _KINDS:
                yield f"{field}: {match[0]} is no reference: write ${{env:NAME}} or ${{file:PATH}}"


def _values(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every leaf of a tree, by its dotted name."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _values(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _values(value, f"{name}.{index}")
    else:
        yield name, tree


def _value(reference: str, where: str) -> str:
    kind, _, name = reference[2:-1].partition(":")
    if kind == "env":
        value = os.environ.get(name, "")
        if not value:
            raise ConfigError(
                f"{where}: {reference}: the environment variable {name} is not set in this process: set it where the "
                "workers start"
            )
    elif kind == "file":
        value = _text(Path(name).expanduser(), f"{where}: {reference}")
    else:
        raise ConfigError(f"{where}: {reference} is no reference: write ${{env:NAME}} or ${{file:PATH}}")
    hide(value, reference)
    return value


def _text(path: Path, where: str) -> str:
    """A file's text, stripped."""
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_TEXT).decode().strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise ConfigError(f"{where}: {path.absolute()}: {reason}") from None
    if not text:
        raise ConfigError(f"{where}: {path.absolute()} is empty")
    return text


def _names_a_secret(key: str) -> bool:
    """Whether a key is a usual name of a secret: api_key, accessToken; but not tokenizer, max_tokens or pad_token."""
    words = [word.lower() for word in _WORDS.findall(key)]
    pairs = {f"{first} {second}" for first, second in pairwise(words)}
    return words == ["token"] or bool(_SECRET_WORDS & {*words} or _SECRET_PAIRS & pairs)


def _is_like_a_secret(text: str) -> bool:
    """Whether a text has the form of a known token, or a run of letters and digits that looks random."""
    if _SECRET_SHAPES.search(text):
        return True
    for run in _RUN.findall(text):
        shares = [count / len(run) for count in Counter(run).values()]
        is_mixed = all(sum(map(kind, run)) >= 3 for kind in (str.islower, str.isupper, str.isdigit))
        if is_mixed and -sum(share * math.log2(share) for share in shares) >= _RANDOM_BITS:
            return True
    return False
