"""Files by URI, local or remote, through fsspec. A file is published whole or not at all.

A listing may name a million files: it is asked for once per folder, and of each file only name and size are kept. Local
folders are listed without fsspec, which collects fifteen details of every file. Reading and writing is patient with a
remote storage; listing is not, since a run begins with it and a wrong endpoint should show at once.
"""

import glob
import io
import os
import posixpath
import re
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dr_pipeline.config.references import resolve
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage.naming import before_wildcards, fits, is_hidden, is_shard
from dr_pipeline.storage.retry import PatientStream, patiently

Value = TypeVar("Value")

_READ_AHEAD_BYTES = 8 << 20
_BUFFER_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_HTTP = ("http://", "https://")
LEADS_NOWHERE = "links that lead nowhere"
"""Why something that lies in a folder is no file."""

_ASKERS = 32
_IN_A_CIRCLE = "folders that a link leads back to"
_WHERE_FILES_ARE_ASKED_FOR = "folders, where the pattern asks for files"
_COPIES_OF_RAY = "/runtime_resources/working_dir_files/"


class Listing(NamedTuple):
    """What lies below a folder, or fits a glob."""

    sizes: dict[str, int]
    """The files: bytes."""
    others: dict[str, str]
    """What is there and cannot be read as a file, or is not followed: why."""
    linked: dict[str, str]
    """The local links to folders that were followed, and where they lead."""


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

    def create(self, uri: str, data: bytes) -> None:
        """Publish a small file where there is none.

        Raises FileExistsError where there is one, and whatever its client raises where a storage cannot tell.
        """
        filesystem, path = self._locate(uri)
        if isinstance(filesystem, LocalFileSystem):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as file:
                file.write(data)
            return
        filesystem.pipe_file(path, data, mode="create")
        filesystem.invalidate_cache()

    def exists(self, uri: str) -> bool:
        """Whether there is a file or folder of this name."""
        filesystem, path = self._locate(uri)
        with _asking(filesystem, uri):
            return filesystem.exists(path)

    def is_file(self, uri: str) -> bool:
        """Whether there is a file of this name."""
        filesystem, path = self._locate(uri)
        with _asking(filesystem, uri):
            return filesystem.isfile(path)

    def is_folder(self, uri: str) -> bool:
        """Whether there is a folder of this name."""
        filesystem, path = self._locate(uri)
        with _asking(filesystem, uri):
            return filesystem.isdir(path)

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

    def listing(self, folder: str) -> Listing:
        """All that lies below a folder, by relative path; links are followed. Empty when the folder is absent."""
        filesystem, path = self._locate(folder)
        start = len(path.rstrip("/")) + 1
        with _asking(filesystem, folder):
            if isinstance(filesystem, LocalFileSystem):
                linked = dict[str, str]()
                sizes, others = _sized(_below(path, linked), _IN_A_CIRCLE)
                return Listing(_cut(sizes, start), _cut(others, start), linked)
            try:
                found = filesystem.find(path, detail=True)
            except FileNotFoundError:
                return Listing({}, {}, {})
            prefix = path.rstrip("/") + "/"
            files = (name for name in found if name.startswith(prefix) and not name.endswith("/"))
            return Listing({name[start:]: found[name]["size"] or 0 for name in files}, {}, {})

    def files(self, folder: str) -> dict[str, int]:
        """Every file below a folder: relative path → bytes. One listing; {} when the folder is absent."""
        return self.listing(folder).sizes

    def shards(self, folder: str) -> dict[str, int]:
        """Every shard below a folder that is not hidden: relative path → bytes."""
        return {name: size for name, size in self.files(folder).items() if is_shard(name) and not is_hidden(name)}

    def sizes(self, uris: Iterable[str]) -> dict[str, int | None]:
        """The bytes of these files; None for those that are not there. A folder is listed once for all of its files.

        A web server need not list its folders: there each file is asked for.
        """
        wanted = list(dict.fromkeys(uris))
        on_the_web = [uri for uri in wanted if uri.startswith(_HTTP)]
        with ThreadPoolExecutor(_ASKERS) as pool:
            sizes = dict(zip(on_the_web, pool.map(self._size_on_the_web, on_the_web), strict=True))
        parts = [uri.rpartition("/") for uri in wanted if uri not in sizes]
        listed = {folder: self.siblings(folder) for folder in sorted({folder for folder, _, _ in parts})}
        sizes |= {f"{folder}/{name}": listed[folder].get(name) for folder, _, name in parts}
        return {uri: sizes[uri] for uri in wanted}

    def siblings(self, folder: str) -> dict[str, int]:
        """The files directly in a folder: name → bytes; {} when it is absent."""
        filesystem, path = self._locate(folder)
        with _asking(filesystem, folder):
            try:
                if isinstance(filesystem, LocalFileSystem):
                    listed, _ = _sized((f"{path}/{name}" for name in os.listdir(path)), "")
                else:
                    entries = filesystem.ls(path, detail=True)
                    listed = {entry["name"]: entry["size"] or 0 for entry in entries if entry["type"] == "file"}
                return {name.rpartition("/")[2]: size for name, size in listed.items()}
            except (FileNotFoundError, NotADirectoryError):
                return {}

    def glob(self, pattern: str) -> Listing:
        """What a glob matches, by URI. As in a shell, a wildcard does not match hidden files."""
        filesystem, path = self._locate(pattern)
        scheme = self.absolute(pattern).removesuffix(path)
        with _asking(filesystem, pattern):
            if isinstance(filesystem, LocalFileSystem):
                linked = dict[str, str]()
                sizes, others = _sized(_matching(path, linked), _WHERE_FILES_ARE_ASKED_FOR)
            else:
                found = filesystem.glob(path, detail=True)
                sizes = {name: info["size"] or 0 for name, info in found.items() if info["type"] == "file"}
                others, linked = {}, {}
            start = len(before_wildcards(path))
            seen = (name for name in sizes if not is_hidden(name[start:]) or fits(name, path))
            return Listing(
                {scheme + name: sizes[name] for name in seen},
                {scheme + name: why for name, why in others.items()},
                linked,
            )

    def place(self, uri: str) -> str:
        """Where a file or folder truly lies, the same for all its spellings: without links, and with its server."""
        absolute = self.absolute(uri)
        if "://" not in absolute:
            return os.path.realpath(absolute)
        server = resolve(self._options, "storage").get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL", "")
        filesystem, path = self._locate(uri)
        return f"{filesystem.protocol} {server} {posixpath.normpath(path)}"

    def sweep(self, folder: str) -> None:
        """Remove what killed processes left below a folder: files that were being written. Remote ones are not seen."""
        filesystem, path = self._locate(folder)
        if isinstance(filesystem, LocalFileSystem):
            for parent, _, names in os.walk(path, onerror=_unless_gone):
                for name in filter(_TEMPORARY.fullmatch, names):
                    Path(parent, name).unlink(missing_ok=True)

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

    def _size_on_the_web(self, uri: str) -> int | None:
        """0 where the server does not say it."""
        filesystem, path = self._locate(uri)
        try:
            return filesystem.info(path)["size"] or 0
        except FileNotFoundError:  # what fsspec makes of every refusal
            return None

    def _locate(self, uri: str) -> tuple[Any, str]:
        if "\0" in uri:
            raise ConfigError(f"cannot open {uri!r}: no name of a file has a null character")
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
    if "\0" in path:
        raise ConfigError(f"{field}: {path!r}: no name of a file has a null character")
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


def _matching(pattern: str, linked: dict[str, str]) -> Iterator[str]:
    """The local paths that a glob matches. Where it has `**`, Python's own glob would go round in a circle of links."""
    if "**" in pattern.split("/"):
        folder = before_wildcards(pattern) or "/"
        yield from (path for path in _below(folder, linked) if fits(path, pattern))
        return
    folders = (folder.rstrip("/") for folder in glob.iglob(f"{os.path.dirname(pattern)}/"))
    linked.update((folder, os.path.realpath(folder)) for folder in folders if os.path.islink(folder))
    yield from glob.iglob(pattern)


def _below(folder: str, linked: dict[str, str]) -> Iterator[str]:
    """Every path below a local folder that is a file or an empty folder; none where there is no such folder.

    Links to folders are followed, and entered in `linked`; one that leads back to a folder above it is given too.
    """
    above: dict[str, frozenset[tuple[int, int]]] = {}
    for parent, folders, names in os.walk(folder, onerror=_unless_gone, followlinks=True):
        path_so_far = above.pop(parent, frozenset()) | {_identity(parent)}
        yield from (os.path.join(parent, name) for name in names)
        if parent != folder and not folders and not names:
            yield parent
        for name in [*folders]:
            path = os.path.join(parent, name)
            above[path] = path_so_far
            if os.path.islink(path):
                linked[path] = os.path.realpath(path)
            if _identity(path) in path_so_far:
                folders.remove(name)
                yield path


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except FileNotFoundError:  # since the listing
        return -1, -1
    return status.st_dev, status.st_ino


def _cut(paths: dict[str, Value], start: int) -> dict[str, Value]:
    return {path[start:]: value for path, value in paths.items()}


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _sized(paths: Iterable[str], why_no_folder: str) -> tuple[dict[str, int], dict[str, str]]:
    """The local files among these paths, and their bytes; and why the others are none."""
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
