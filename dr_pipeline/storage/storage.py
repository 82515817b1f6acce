"""Files by URI, local or remote, through fsspec. A file is published whole or not at all.

A listing may name a million files: it is asked for once per folder, and of each file only name and size are kept.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dr_pipeline.config.references import resolve
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage.errors import storage_errors
from dr_pipeline.storage.local import LocalPath
from dr_pipeline.storage.naming import Listing, is_hidden, is_shard
from dr_pipeline.storage.remote import RemotePath

_HTTP = ("http://", "https://")
_WEB_REQUESTS = 32
"""How many files a web server is asked for at a time."""

_COPIES_OF_RAY = "/runtime_resources/working_dir_files/"


class Storage:
    """One tree of files and the fsspec options (endpoint, profile, …) that reach it.

    Every method raises StorageError where the storage fails; it is a FileNotFoundError too where a file is absent.
    """

    def __init__(self, options: Mapping[str, Any] | None = None):
        self._options = dict(options or {})

    def absolute(self, uri: str) -> str:
        """A local path made absolute, since workers run in other folders; any other URI as it is."""
        return self._at(uri).absolute

    def canonical(self, uri: str) -> str:
        """One name for all spellings of a file or folder: without links, and with its server."""
        return self._at(uri).canonical()

    def open(self, uri: str) -> BinaryIO:
        """A stream of the file's bytes, read ahead block by block."""
        return self._at(uri).open()

    def read(self, uri: str) -> bytes:
        """The whole of a small file."""
        return self._at(uri).read()

    def read_range(self, uri: str, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end` of a file."""
        return self._at(uri).read(start, end)

    def download(self, uri: str) -> Path:
        """A local copy of a remote file in `cache_folder`, fetched once per version; a local file itself."""
        return self._at(uri).download(cache_folder())

    def write(self, uri: str, data: bytes) -> None:
        """Publish a small file."""
        with self.staged(uri) as path:
            path.write_bytes(data)

    def staged(self, uri: str) -> AbstractContextManager[Path]:
        """A local file to write; on a clean exit it appears under `uri` at once, on an error nothing does."""
        return self._at(uri).staged()

    def create(self, uri: str, data: bytes) -> None:
        """Publish a small file where there is none. Raises FileExistsError where there is one, StorageError where the
        storage cannot tell.
        """
        self._at(uri).create(data)

    def exists(self, uri: str) -> bool:
        """Whether there is a file or folder of this name."""
        with self._asked_anew(uri, "looked for") as at:
            return at.filesystem.exists(at.path)

    def is_file(self, uri: str) -> bool:
        """Whether there is a file of this name."""
        with self._asked_anew(uri, "looked for") as at:
            return at.filesystem.isfile(at.path)

    def is_folder(self, uri: str) -> bool:
        """Whether there is a folder of this name."""
        with self._asked_anew(uri, "looked for") as at:
            return at.filesystem.isdir(at.path)

    def delete(self, uri: str) -> None:
        """Remove a file; nothing when it is absent."""
        with suppress(FileNotFoundError):
            self._at(uri).delete()

    def delete_folder(self, uri: str) -> None:
        """Remove a folder and all in it; nothing when it is absent."""
        with self._asked_anew(uri, "deleted") as at:
            if at.filesystem.exists(at.path):
                at.filesystem.rm(at.path, recursive=True)

    def sweep(self, folder: str) -> None:
        """Remove local files below a folder that killed processes had not finished; remote ones are never listed."""
        with self._asked_anew(folder) as at:
            at.sweep()

    def listing(self, folder: str) -> Listing:
        """All that lies below a folder, by relative path; links are followed. Empty when the folder is absent."""
        with suppress(FileNotFoundError), self._asked_anew(folder) as at:
            return at.listing()
        return Listing({}, {}, {})

    def files(self, folder: str) -> dict[str, int]:
        """Every file below a folder: relative path → bytes. One listing; {} when the folder is absent."""
        return self.listing(folder).sizes

    def shards(self, folder: str) -> dict[str, int]:
        """Every shard below a folder that is not hidden: relative path → bytes."""
        return {name: size for name, size in self.files(folder).items() if is_shard(name) and not is_hidden(name)}

    def siblings(self, folder: str) -> dict[str, int]:
        """The files directly in a folder: name → bytes; {} when it is absent."""
        with suppress(FileNotFoundError), self._asked_anew(folder) as at:
            return at.siblings()
        return {}

    def sizes(self, uris: Iterable[str]) -> dict[str, int | None]:
        """The bytes of these files; None for those that are not there. A folder is listed once for all of its files.

        A web server need not list its folders: there each file is asked for.
        """
        wanted = list(dict.fromkeys(uris))
        on_the_web = [uri for uri in wanted if uri.startswith(_HTTP)]
        with ThreadPoolExecutor(_WEB_REQUESTS) as pool:
            sizes = dict(zip(on_the_web, pool.map(self._size, on_the_web), strict=True))
        parts = [uri.rpartition("/") for uri in wanted if uri not in sizes]
        listed = {folder: self.siblings(folder) for folder in sorted({folder for folder, _, _ in parts})}
        sizes |= {f"{folder}/{name}": listed[folder].get(name) for folder, _, name in parts}
        return {uri: sizes[uri] for uri in wanted}

    def glob(self, pattern: str) -> Listing:
        """What a glob matches, by URI. As in a shell, a wildcard does not match hidden files."""
        with self._asked_anew(pattern) as at:
            sizes, others, linked = at.glob()
        scheme = at.absolute.removesuffix(at.path)
        return Listing(
            {scheme + name: size for name, size in sizes.items()},
            {scheme + name: why for name, why in others.items()},
            linked,
        )

    def _size(self, uri: str) -> int | None:
        """The bytes of a web server's file; 0 where the server does not say it, None where there is no file."""
        at = self._at(uri)
        with suppress(FileNotFoundError), storage_errors(uri, "listed"):  # the former is what fsspec makes of a refusal
            return at.filesystem.info(at.path)["size"] or 0
        return None

    @contextmanager
    def _asked_anew(self, uri: str, done: str = "listed") -> Iterator[LocalPath | RemotePath]:
        """Ask the storage what there is now, not a cache of an earlier listing, and keep no cache of the answer."""
        at = self._at(uri)
        at.filesystem.invalidate_cache()
        try:
            with storage_errors(uri, done):
                yield at
        finally:
            at.filesystem.invalidate_cache()

    def _at(self, uri: str) -> LocalPath | RemotePath:
        if "\0" in uri:
            raise ConfigError(f"cannot open {uri!r}: no name of a file has a null character")
        try:
            filesystem, path = fsspec.core.url_to_fs(uri, **resolve(self._options, "storage"))
        except (ValueError, ImportError, TypeError) as error:
            raise ConfigError(f"cannot open {uri}: {error}") from error
        kind = LocalPath if isinstance(filesystem, LocalFileSystem) else RemotePath
        return kind(uri, filesystem, path)


def cache_folder() -> Path:
    """Where this machine keeps what it can fetch or make again: $DR_PIPELINE_CACHE, else ~/.cache/dr_pipeline.

    Raises ConfigError for a user who has no home.
    """
    folder = os.environ.get("DR_PIPELINE_CACHE", "~/.cache/dr_pipeline")
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{folder}: this user has no home: set DR_PIPELINE_CACHE to a folder") from error


def refuse_ray_working_dir(path: str, field: str) -> None:
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
