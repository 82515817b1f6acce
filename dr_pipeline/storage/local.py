"""A file or folder of a local disk, or of a mounted file system."""

import io
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dr_pipeline.storage.errors import storage_errors
from dr_pipeline.storage.listing import Listing, list_matches, list_tree, raise_unless_gone, stat_files

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


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
        return list_tree(self.path)

    def siblings(self) -> dict[str, int]:
        sizes, _ = stat_files((f"{self.path}/{name}" for name in os.listdir(self.path)), "")
        return {os.path.basename(path): size for path, size in sizes.items()}

    def glob(self) -> Listing:
        return list_matches(self.path)

    def sweep(self) -> None:
        for parent, _, names in os.walk(self.path, onerror=raise_unless_gone):
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
