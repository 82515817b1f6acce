"""A file or folder that a client of fsspec reaches.

Reading and writing is retried; listing is not, since a run begins with it and a wrong endpoint should show at once.
"""

import hashlib
import io
import os
import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from dr_pipeline.storage.errors import S3, lacks_bucket, storage_errors
from dr_pipeline.storage.naming import Listing, before_wildcards, fits, stem
from dr_pipeline.storage.retry import RetryingStream, retried

_READ_AHEAD_BYTES = 8 << 20
_BUFFER_BYTES = 1 << 20
_VERSION_FIELDS = ("ETag", "Content-MD5", "Digest", "Last-Modified", "size")


class RemotePath:
    """A URI, the client that reaches it, and the client's own name for it. `Storage` documents the methods."""

    def __init__(self, uri: str, filesystem: Any, path: str):
        self.path = path
        self.absolute = uri.rstrip("/")
        self._uri = uri
        self.filesystem = filesystem

    def canonical(self) -> str:
        endpoint = self.filesystem.storage_options.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL", "")
        return f"{self.filesystem.protocol} {endpoint} {posixpath.normpath(self.path)}"

    def open(self) -> BinaryIO:
        open_file = partial(self.filesystem.open, self.path, "rb", block_size=_READ_AHEAD_BYTES, cache_type="readahead")
        return io.BufferedReader(RetryingStream(self._uri, open_file), _BUFFER_BYTES)

    def read(self, start: int | None = None, end: int | None = None) -> bytes:
        return retried(self._uri, "read", lambda: self.filesystem.cat_file(self.path, start=start, end=end))

    def create(self, data: bytes) -> None:
        with storage_errors(self._uri, "written"):
            self.filesystem.pipe_file(self.path, data, mode="create")
            self.filesystem.invalidate_cache()

    @contextmanager
    def staged(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="dr-pipeline-") as folder:
            staged = Path(folder) / "staged"
            yield staged
            retried(self._uri, "written", lambda: self.filesystem.put_file(str(staged), self.path))
            self.filesystem.invalidate_cache()

    def delete(self) -> None:
        try:
            retried(self._uri, "deleted", lambda: self.filesystem.rm_file(self.path))
        finally:
            self.filesystem.invalidate_cache()

    def listing(self) -> Listing:
        prefix = self.path.rstrip("/") + "/"
        found = self.filesystem.find(self.path, detail=True)
        files = (name for name in found if name.startswith(prefix) and not name.endswith("/"))
        return Listing({name.removeprefix(prefix): found[name]["size"] or 0 for name in files}, {}, {})

    def siblings(self) -> dict[str, int]:
        entries = self.filesystem.ls(self.path, detail=True)
        return {posixpath.basename(entry["name"]): entry["size"] or 0 for entry in entries if entry["type"] == "file"}

    def glob(self) -> Listing:
        """fsspec's own glob would pass over a folder that cannot be listed, and all shards in it."""
        folder = before_wildcards(self.path)
        parts = self.path.removeprefix(folder).lstrip("/").split("/")
        return Listing({entry["name"]: entry["size"] or 0 for entry in self._matching(folder, parts)}, {}, {})

    def _matching(self, folder: str, parts: list[str]) -> Iterator[dict[str, Any]]:
        """The files below a folder that these parts of a glob match; each folder is listed once."""
        if parts[0] == "**":
            below = self.filesystem.find(folder, detail=True).values()
            start = len(folder.rstrip("/")) + 1
            yield from (entry for entry in below if fits(entry["name"][start:], "/".join(parts)))
            return
        kind = "directory" if parts[1:] else "file"
        for entry in self._entries(folder, stem(parts[0])):
            name = entry["name"].rstrip("/")
            if entry["type"] == kind and name != folder and fits(posixpath.basename(name), parts[0]):
                yield from self._matching(name, parts[1:]) if parts[1:] else [entry]

    def _entries(self, folder: str, start: str) -> list[dict[str, Any]]:
        """What lies in a folder, on S3 only what has a name with this start; nothing where there is no folder."""
        try:
            if start and self._uri.startswith(S3):
                with suppress(ValueError):  # an earlier s3fs cannot ask for one folder's alone
                    found = self.filesystem.find(folder, maxdepth=1, withdirs=True, detail=True, prefix=start)
                    return list(found.values())
            return list(self.filesystem.ls(folder, detail=True))
        except FileNotFoundError as error:
            if lacks_bucket(error):
                raise
            return []

    def sweep(self) -> None:
        """Do nothing: a remote file that is being written is not listed."""

    def download(self, cache: Path) -> Path:
        """The copy's folder is named by address and version, so that a replaced file is downloaded again."""
        with storage_errors(self._uri, f"downloaded to {cache}"):
            info = self.filesystem.info(self.path)
            facts = [self.filesystem.ukey(self.path), *(str(info.get(field)) for field in _VERSION_FIELDS)]
            copy = cache / hashlib.sha256("\n".join(facts).encode()).hexdigest() / posixpath.basename(self.path)
            if not copy.is_file():
                copy.parent.mkdir(parents=True, exist_ok=True)
                # Workers of one node may download at the same time: each to its own name, the last rename wins.
                with tempfile.TemporaryDirectory(dir=copy.parent) as folder:
                    temporary = os.path.join(folder, copy.name)
                    self.filesystem.get_file(self.path, temporary)
                    os.replace(temporary, copy)
            return copy
