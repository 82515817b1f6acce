"""A file or folder of a local disk, or of a mounted file system.

Folders are not listed by fsspec, which collects fifteen details of every file.
"""

import glob
import io
import os
import re
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dr_pipeline.storage.errors import storage_errors
from dr_pipeline.storage.naming import LEADS_NOWHERE, Listing, before_wildcards, fits

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_IN_A_CIRCLE = "folders that a link leads back to"
_WHERE_FILES_ARE_ASKED_FOR = "folders, where the pattern asks for files"


class LocalPath:
    """An absolute path. Nothing is retried: a disk's errors do not pass. `Storage` documents the methods."""

    def __init__(self, uri: str, filesystem: Any, path: str):
        self.filesystem = filesystem
        self.path = path
        self.absolute = path

    def canonical(self) -> str:
        return os.path.realpath(self.path)

    def open(self) -> BinaryIO:
        with storage_errors(self.path, "read"):
            return io.BufferedReader(_File(self.path))

    def read(self, start: int | None = None, end: int | None = None) -> bytes:
        with self.open() as file:
            file.seek(start or 0)
            return file.read(-1 if end is None else end - (start or 0))

    def create(self, data: bytes) -> None:
        folder = Path(self.path).parent
        with storage_errors(self.path, "written"):
            if folder.exists() and not folder.is_dir():
                raise NotADirectoryError(f"{folder} is a file")  # else it would seem that the new file is there already
            folder.mkdir(parents=True, exist_ok=True)
            with open(self.path, "xb") as file:
                file.write(data)

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """A hidden file, never named `.tar`, in the target's own folder, so that the rename is atomic."""
        target = Path(self.path)
        staged = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        with storage_errors(self.path, "written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.touch()
            mode = staged.stat().st_mode  # as the umask has it; safetensors writes a file for its owner alone
        try:
            yield staged
            with storage_errors(self.path, "written"):
                staged.chmod(mode)
                with staged.open("rb") as written:
                    os.fsync(written.fileno())
                staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)

    def delete(self) -> None:
        with storage_errors(self.path, "deleted"):
            os.remove(self.path)

    def listing(self) -> Listing:
        linked = dict[str, str]()
        sizes, others = _stat_files(_walk(self.path, linked), _IN_A_CIRCLE)
        start = len(self.path.rstrip("/")) + 1
        return Listing(
            {path[start:]: size for path, size in sizes.items()},
            {path[start:]: why for path, why in others.items()},
            linked,
        )

    def siblings(self) -> dict[str, int]:
        sizes, _ = _stat_files((f"{self.path}/{name}" for name in os.listdir(self.path)), "")
        return {os.path.basename(path): size for path, size in sizes.items()}

    def glob(self) -> Listing:
        """Where the pattern has `**`, Python's own glob would go round in a circle of links."""
        linked = dict[str, str]()
        if "**" in self.path.split("/"):
            tree = _walk(before_wildcards(self.path) or "/", linked)
            paths: Iterable[str] = (path for path in tree if fits(path, self.path))
        else:
            folders = (folder.rstrip("/") for folder in glob.iglob(f"{os.path.dirname(self.path)}/"))
            linked.update((folder, os.path.realpath(folder)) for folder in folders if os.path.islink(folder))
            paths = glob.iglob(self.path)
        return Listing(*_stat_files(paths, _WHERE_FILES_ARE_ASKED_FOR), linked)

    def sweep(self) -> None:
        for parent, _, names in os.walk(self.path, onerror=_raise_unless_gone):
            for name in filter(_TEMPORARY.fullmatch, names):
                Path(parent, name).unlink(missing_ok=True)

    def download(self, cache: Path) -> Path:
        with self.open():
            return Path(self.path)


class _File(io.FileIO):
    """A local file whose errors name it."""

    def readinto(self, buffer: Any) -> int | None:
        with storage_errors(str(self.name), "read"):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with storage_errors(str(self.name), "read"):
            return super().readall()


def _stat_files(paths: Iterable[str], why_no_folder: str) -> tuple[dict[str, int], dict[str, str]]:
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


def _raise_unless_gone(error: OSError) -> None:
    """For `os.walk`: a folder that was removed while its parent was read is passed over."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _walk(folder: str, linked: dict[str, str]) -> Iterator[str]:
    """Every path below a folder that is a file or an empty folder; none where there is no such folder.

    Links to folders are followed, and entered in `linked`; one that leads back to a folder above it is given too.
    """
    above: dict[str, frozenset[tuple[int, int]]] = {}
    for parent, folders, names in os.walk(folder, onerror=_raise_unless_gone, followlinks=True):
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
