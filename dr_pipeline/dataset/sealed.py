"""JSON files that hold a checksum of themselves: a changed byte shows, whichever it is."""

import hashlib
import json
from typing import Any

CHECKSUM = "checksum"


def seal(tree: dict[str, Any]) -> bytes:
    """The tree as a file; its last key is the SHA-256 of the file that the others would make."""
    rest = {key: value for key, value in tree.items() if key != CHECKSUM}
    return _file({**rest, CHECKSUM: hashlib.sha256(_file(rest)).hexdigest()})


def unseal(data: bytes) -> dict[str, Any]:
    """The tree without its checksum, which is not looked at. Raises ValueError when the file holds no JSON object."""
    tree = json.loads(data)
    if not isinstance(tree, dict):
        raise ValueError(f"an object is expected, found {type(tree).__name__}")
    tree.pop(CHECKSUM, None)
    return tree


def is_intact(data: bytes) -> bool:
    """Whether every byte is as it was written; true of a file from before there were checksums.

    A file that was written with a checksum and lost its name has a key that no reader knows: theirs to notice.
    """
    try:
        tree = json.loads(data)
    except ValueError:
        return False
    return isinstance(tree, dict) and (CHECKSUM not in tree or seal(tree) == data)


def _file(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, indent=1).encode()
