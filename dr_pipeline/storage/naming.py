"""Names of files: lists of them, which are shards, what a glob matches, what an input's shard is in the output."""

import re
from fnmatch import fnmatchcase
from typing import NamedTuple

ENDINGS = ".tar, .tar.gz or .tgz"
"""How a shard's file name ends, in small letters or capitals."""

HIDDEN = "hidden, as files are that are still being written, or in a hidden folder"

_ENDING = re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)
_PACKED = re.compile(r"\.(tar\.(bz2|xz|zst|lz4|z)|tbz2?|txz|tzst|zip|7z|rar)$", re.IGNORECASE)
_IMAGE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif)$", re.IGNORECASE)
_DOT = re.compile(r"(^|/)\.+(?=[^/.])")

LEADS_NOWHERE = "links that lead nowhere"
"""Why something in a folder is no file, in the plural."""


class Listing(NamedTuple):
    """What lies below a folder, or fits a glob."""

    sizes: dict[str, int]
    """File → bytes."""
    others: dict[str, str]
    """What cannot be read as a file, or is not followed → why."""
    linked: dict[str, str]
    """Local link to a folder that was followed → real path of the folder."""


def is_shard(path: str) -> bool:
    """Whether a file's name is a shard's; a hidden file is still being written."""
    file = path.rpartition("/")[2]
    return not file.startswith(".") and _ENDING.search(file) is not None


def is_hidden(path: str) -> bool:
    """Whether a file is hidden, or lies in a hidden folder, by its path below the folder that is looked through."""
    return _DOT.search(path) is not None


def why_no_shard(path: str) -> str:
    """Why a file's name is not a shard's."""
    file = path.rpartition("/")[2]
    if file.startswith("."):
        return HIDDEN
    if _PACKED.search(file):
        return "packed in a form that is not read: unpack them and write plain tars"
    if _IMAGE.search(file):
        return "an image, no tar: `tar --sort=name -cf 00000.tar FOLDER` packs KEY.jpg and KEY.txt, side by side"
    return f"not named {ENDINGS}"


def output_name(name: str) -> str:
    """What an input's shard is called in the output: `00/x.TAR`, `00/x.tgz` and `00/x` give `00/x.tar`.

    So do `00/.x` and `.00/x`, since readers of the output pass hidden files over.
    """
    return _DOT.sub(r"\1", f"{_ENDING.sub('', name)}.tar")


def stem(pattern: str) -> str:
    """What every name begins with that a glob matches, or that a brace pattern stands for."""
    return re.split(r"[{*?\[]", pattern, maxsplit=1)[0]


def before_wildcards(pattern: str) -> str:
    """The folder below which a glob or a brace pattern names files."""
    return stem(pattern).rpartition("/")[0]


def fits(path: str, glob: str) -> bool:
    """Whether a glob matches a path. As in a shell, no wildcard stands for the dot that hides a file or folder."""
    return _fits(path.split("/"), glob.split("/"))


def _fits(path: list[str], glob: list[str]) -> bool:
    if not glob or not path:
        return not path and all(part == "**" for part in glob)
    has_dot = path[0].startswith(".")
    if glob[0] == "**":
        return _fits(path, glob[1:]) or (not has_dot and _fits(path[1:], glob))
    may_match = glob[0].startswith(".") or not has_dot
    return may_match and fnmatchcase(path[0], glob[0]) and _fits(path[1:], glob[1:])
