"""Lists local folders. Not by fsspec, which collects fifteen details of every file."""

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dr_pipeline.storage.naming import before_wildcards, fits

LEADS_NOWHERE = "links that lead nowhere"
"""Why something in a folder is no file, in the plural."""

_IN_A_CIRCLE = "folders that a link leads back to"
_WHERE_FILES_ARE_ASKED_FOR = "folders, where the pattern asks for files"


class Listing(NamedTuple):
    """What lies below a folder, or fits a glob."""

    sizes: dict[str, int]
    """File → bytes."""
    others: dict[str, str]
    """What cannot be read as a file, or is not followed → why."""
    linked: dict[str, str]
    """Local link to a folder that was followed → real path of the folder."""


def list_tree(folder: str) -> Listing:
    """All that lies below a folder, by relative path; links are followed. Empty when the folder is absent."""
    linked = dict[str, str]()
    sizes, others = stat_files(_walk(folder, linked), _IN_A_CIRCLE)
    start = len(folder.rstrip("/")) + 1
    return Listing(
        {path[start:]: size for path, size in sizes.items()},
        {path[start:]: why for path, why in others.items()},
        linked,
    )


def list_matches(pattern: str) -> Listing:
    """All that a glob matches, by path. Where it has `**`, Python's own glob would go round in a circle of links."""
    linked = dict[str, str]()
    if "**" in pattern.split("/"):
        tree = _walk(before_wildcards(pattern) or "/", linked)
        paths: Iterable[str] = (path for path in tree if fits(path, pattern))
    else:
        folders = (folder.rstrip("/") for folder in glob.iglob(f"{os.path.dirname(pattern)}/"))
        linked.update((folder, os.path.realpath(folder)) for folder in folders if os.path.islink(folder))
        paths = glob.iglob(pattern)
    return Listing(*stat_files(paths, _WHERE_FILES_ARE_ASKED_FOR), linked)


def stat_files(paths: Iterable[str], why_no_folder: str) -> tuple[dict[str, int], dict[str, str]]:
    """The files among these paths → bytes, and the other paths → why they are none."""
    sizes, others = dict[str, int](), dict[str, str]()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            if os.path.islink(path):
                others[path] = LEADS_NOWHERE
            elif not isinstance(error, FileNotFoundError):  # gone since the listing: a finished file's temporary name
                raise
            continue
        if stat.S_ISREG(status.st_mode):
            sizes[path] = status.st_size
        elif not stat.S_ISDIR(status.st_mode):
            others[path] = "neither files nor folders"
        elif not os.listdir(path):
            others[path] = "empty folders"
        else:
            others[path] = why_no_folder
    return sizes, others


def raise_unless_gone(error: OSError) -> None:
    """For `os.walk`: a folder that was removed while its parent was read is passed over."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _walk(folder: str, linked: dict[str, str]) -> Iterator[str]:
    """Every path below a folder that is a file or an empty folder; none where there is no such folder.

    Links to folders are followed, and entered in `linked`; one that leads back to a folder above it is given too.
    """
    above: dict[str, frozenset[tuple[int, int]]] = {}
    for parent, folders, names in os.walk(folder, onerror=raise_unless_gone, followlinks=True):
        ancestors = above.pop(parent, frozenset()) | {_identity(parent)}
        yield from (os.path.join(parent, name) for name in names)
        if parent != folder and not folders and not names:
            yield parent
        for name in [*folders]:
            path = os.path.join(parent, name)
            above[path] = ancestors
            if os.path.islink(path):
                linked[path] = os.path.realpath(path)
            if _identity(path) in ancestors:
                folders.remove(name)
                yield path


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except FileNotFoundError:  # since the listing
        return -1, -1
    return status.st_dev, status.st_ino
