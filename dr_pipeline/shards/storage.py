"""Files by URI, local or remote, through fsspec. A file is published whole or not at all.

A listing may name a million files: it is asked for once per folder, and of each file only name and size are kept. Local
folders are listed without fsspec, which collects fifteen details of every file. Reading and writing is patient with a
remote storage; listing is not, since a run begins with it and a wrong endpoint should show at once.
"""

import glob
import io
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dr_pipeline.errors import ConfigError
from dr_pipeline.references import resolve
from dr_pipeline.shards.patience import PatientStream, patiently

_READ_AHEAD_BYTES = 8 << 20
_BUFFER_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_COPIES_OF_RAY = "/runtime_resources/working_dir_files/"


class Storage:
    """One tree of files and the fsspec options (endpoint, profile, …) that reach it."""

    def __init__(self, options: Mapping[str, Any] | None = None):
        self._options = dict(options or {})

    def absolute(self, uri: str) -> str:
        """A local path made absolute, since workers run in other folders; any other URI as it is."""
        filesystem, path = self._locate(uri)
        return path if isinstance(filesystem, LocalFileSystem) else uri.rstrip("/")

    def open(self, uri: str) -> BinaryIO:
        """A stream of the file's bytes, read ahead block by block."""
        filesystem, path = self._locate(uri)
        if isinstance(filesystem, LocalFileSystem):
            return Path(path).open("rb")
        open_file = partial(filesystem.open, path, "rb", block_size=_READ_AHEAD_BYTES, cache_type="readahead")
        return io.BufferedReader(PatientStream(uri, open_file), _BUFFER_BYTES)

    def read(self, uri: str) -> bytes:
        """The whole of a small file."""
        filesystem, path = self._locate(uri)
        return _patiently(filesystem, uri, lambda: filesystem.cat_file(path))

    def read_range(self, uri: str, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end` of a file."""
        filesystem, path = self._locate(uri)
        return _patiently(filesystem, uri, lambda: filesystem.cat_file(path, start=start, end=end))

    def write(self, uri: str, data: bytes) -> None:
        """Publish a small file."""
        with self.staged(uri) as path:
            path.write_bytes(data)

    def exists(self, uri: str) -> bool:
        """Whether there is a file or folder of this name."""
        filesystem, path = self._locate(uri)
        with _asking(filesystem, uri):
            return filesystem.exists(path)

    def delete(self, uri: str) -> None:
        """Remove a file; nothing when it is absent."""
        filesystem, path = self._locate(uri)
        with suppress(FileNotFoundError):
            _patiently(filesystem, uri, lambda: filesystem.rm_file(path))
        filesystem.invalidate_cache()

    def delete_folder(self, uri: str) -> None:
        """Remove a folder and all in it; nothing when it is absent."""
        filesystem, path = self._locate(uri)
        filesystem.invalidate_cache()
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)

    def files(self, folder: str) -> dict[str, int]:
        """Every file below a folder: relative path → bytes. One listing; {} when the folder is absent."""
        filesystem, path = self._locate(folder)
        start = len(path.rstrip("/")) + 1
        with _asking(filesystem, folder):
            if isinstance(filesystem, LocalFileSystem):
                return {file[start:]: size for file, size in _sized(_below(path))}
            try:
                found = filesystem.find(path, detail=True)
            except FileNotFoundError:
                return {}
            prefix = path.rstrip("/") + "/"
            return {name[start:]: info["size"] or 0 for name, info in found.items() if name.startswith(prefix)}

    def shards(self, folder: str) -> dict[str, int]:
        """Every tar below a folder: relative path → bytes; hidden ones are still being written."""
        files = self.files(folder)
        return {
            name: size
            for name, size in files.items()
            if name.endswith(".tar") and not name.rpartition("/")[2].startswith(".")
        }

    def siblings(self, folder: str) -> dict[str, int]:
        """The files directly in a folder: name → bytes; {} when it is absent."""
        filesystem, path = self._locate(folder)
        with _asking(filesystem, folder):
            try:
                if isinstance(filesystem, LocalFileSystem):
                    listed = _sized(f"{path}/{name}" for name in os.listdir(path))
                else:
                    entries = filesystem.ls(path, detail=True)
                    listed = ((entry["name"], entry["size"] or 0) for entry in entries if entry["type"] == "file")
                return {name.rpartition("/")[2]: size for name, size in listed}
            except (FileNotFoundError, NotADirectoryError):
                return {}

    def glob(self, pattern: str) -> dict[str, int]:
        """The files that a glob matches: URI → bytes. As in a shell, a wildcard does not match hidden files."""
        filesystem, path = self._locate(pattern)
        scheme = self.absolute(pattern).removesuffix(path)
        with _asking(filesystem, pattern):
            if isinstance(filesystem, LocalFileSystem):
                listed = _sized(glob.iglob(path, recursive=True))
            else:
                found = filesystem.glob(path, detail=True)
                listed = ((name, info["size"] or 0) for name, info in found.items() if info["type"] == "file")
            return {scheme + name: size for name, size in listed if not name.rpartition("/")[2].startswith(".")}

    def sweep(self, folder: str) -> None:
        """Remove what killed processes left below a folder: files that were being written. Remote ones are not seen."""
        filesystem, path = self._locate(folder)
        if isinstance(filesystem, LocalFileSystem):
            for file in _below(path):
                if _TEMPORARY.fullmatch(file.rpartition("/")[2]):
                    Path(file).unlink(missing_ok=True)

    @contextmanager
    def staged(self, uri: str) -> Iterator[Path]:
        """A local file to write; on a clean exit it appears under `uri` at once, on an error nothing does."""
        filesystem, target = self._locate(uri)
        if isinstance(filesystem, LocalFileSystem):
            with _beside(Path(target)) as path:
                yield path
            return
        with tempfile.TemporaryDirectory(prefix="dr-pipeline-") as folder:
            path = Path(folder) / "staged"
            yield path
            patiently(uri, lambda: filesystem.put_file(str(path), target))
            filesystem.invalidate_cache()

    def _locate(self, uri: str) -> tuple[Any, str]:
        try:
            return fsspec.core.url_to_fs(uri, **resolve(self._options, "storage"))
        except (ValueError, ImportError, TypeError) as error:
            raise ConfigError(f"cannot open {uri}: {error}") from error


def cache_folder() -> Path:
    """Where this machine keeps what it can fetch or make again: $DR_PIPELINE_CACHE, else ~/.cache/dr_pipeline."""
    return Path(os.environ.get("DR_PIPELINE_CACHE", "~/.cache/dr_pipeline")).expanduser()


def refuse_fleeting(path: str, field: str) -> None:
    """Raise ConfigError where a job's `field` names a place in the copy that Ray makes of a working folder for a job:
    what is written there is removed with the copy.
    """
    if "://" not in path and _COPIES_OF_RAY in os.path.realpath(path):
        raise ConfigError(
            f"{field}: {path} lies in the copy of the working folder that Ray made for this job, and removes after it: "
            f"give an absolute path on a disk that all nodes share, such as /mnt/shared/{Path(path).name}, or a URL"
        )


def _patiently(filesystem: Any, uri: str, request: Callable[[], Any]) -> Any:
    """A local disk's errors do not pass."""
    return request() if isinstance(filesystem, LocalFileSystem) else patiently(uri, request)


@contextmanager
def _asking(filesystem: Any, uri: str) -> Iterator[None]:
    """Ask for what there is now, keep no cache of the answer, and name what cannot be listed.

    Each storage's client has errors of its own for a wrong endpoint or credentials; they become ConfigErrors.
    """
    filesystem.invalidate_cache()
    try:
        yield
    except Exception as error:
        raise ConfigError(f"{uri} cannot be listed: {type(error).__name__}: {error}") from error
    finally:
        filesystem.invalidate_cache()


def _below(folder: str) -> Iterator[str]:
    """Every path below a local folder that is no folder; none where there is no such folder."""
    for parent, _, names in os.walk(folder, onerror=_unless_gone):
        yield from (f"{parent}/{name}" for name in names)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _sized(paths: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The local files among these paths, and their bytes."""
    for path in paths:
        try:
            status = os.stat(path)
        except FileNotFoundError:  # since the listing: a finished file's temporary name
            continue
        if stat.S_ISREG(status.st_mode):
            yield path, status.st_size


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A temporary file in the target's own folder, so that the rename is atomic; hidden, and never a `.tar`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.touch()
        mode = path.stat().st_mode  # as the umask has it; safetensors writes a file for its owner alone
        yield path
        path.chmod(mode)
        with path.open("rb") as written:
            os.fsync(written.fileno())
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)
