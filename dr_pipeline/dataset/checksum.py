"""JSON files that end with a checksum of themselves: a change of any byte shows."""

import hashlib
import json
from typing import Any

_CHECKSUM = "checksum"


def dump(tree: dict[str, Any]) -> bytes:
    """The tree as a file. Its last key is the SHA-256 of the file that the other keys alone would make."""
    sha256 = hashlib.sha256(_encode(tree)).hexdigest()
    return _encode({**tree, _CHECKSUM: sha256})


def load(data: bytes) -> dict[str, Any]:
    """The tree of a file, without its checksum, which is not compared. Raises ValueError when it is no JSON object."""
    try:
        tree = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(tree, dict):
        raise ValueError("it is not an object, of keys and values")
    tree.pop(_CHECKSUM, None)
    return tree


def is_intact(data: bytes) -> bool:
    """Whether every byte is as `dump` wrote it."""
    try:
        return dump(load(data)) == data
    except ValueError:
        return False


def _encode(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, indent=1).encode()
