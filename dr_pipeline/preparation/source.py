"""The files that were downloaded: annotations by pattern, images by the names that annotations give.

Names in annotations are others' words. They are read below the folder of the images alone, and no link is followed out
of it.
"""

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dr_pipeline.dataset.sample import NO_IMAGE
from dr_pipeline.errors import ConfigError, SampleSkipped, reason

_KINDS: dict[type, str] = {dict: "keys and values", list: "a list"}
_LARGEST_IMAGE_BYTES = 256 << 20


class Source:
    """A folder of annotations and one of images, often the same. Raises ConfigError where one is no folder."""

    def __init__(self, folder: str, images: str | None):
        self.folder = _existing(folder, "SOURCE")
        self.images = _existing(images, "--images") if images else self.folder
        self._sizes: dict[str, int] = {}

    @property
    def digest(self) -> str:
        """A digest of names and sizes of all files that were listed."""
        return hashlib.sha256(json.dumps(self._sizes, sort_keys=True).encode()).hexdigest()

    def annotations(self, *patterns: str) -> list[Path]:
        """The files that the first fitting pattern matches, in order of their names. Raises ConfigError for none."""
        for pattern in patterns:
            found = sorted(path for path in self.folder.glob(pattern) if path.is_file() and self._is_inside(path))
            if found:
                self._sizes |= {str(path.relative_to(self.folder)): path.stat().st_size for path in found}
                return found
        raise ConfigError(
            f"{self.folder} has no {' or '.join(patterns)}: name the folder that holds what was downloaded"
        )

    @cached_property
    def folders(self) -> dict[str, list[str]]:
        """The folders in the images' folder, in alphabetical order, with the names of all files in each, nested too.

        A link to what holds the images' folder is none of them: it would have all images once more.
        """
        listed = {
            folder.name: sorted(
                str(path.relative_to(self.images)) for path in folder.rglob("*") if not path.name.startswith(".")
            )
            for folder in sorted(self.images.iterdir())
            if folder.is_dir() and not folder.name.startswith(".") and not self.images.is_relative_to(folder.resolve())
        }
        self._sizes |= {name: 0 for names in listed.values() for name in names}
        return listed

    def image(self, name: str) -> Callable[[], bytes]:
        """What reads an image by its name below the images' folder: a file, or a member of its folder's zip."""
        return partial(self._read, name)

    def _read(self, name: str) -> bytes:
        parts = re.split(r"[/\\]", name)
        if not parts[0] or ".." in parts or "\0" in name or "\\" in name or ":" in parts[0]:
            raise SampleSkipped("unsafe name", repr(name))
        path = self.images / name
        try:
            if path.is_file():
                if not self._is_inside(path):
                    raise SampleSkipped("link leads out of the folder", f"{name}: copy what it names, or use --images")
                if path.stat().st_size > _LARGEST_IMAGE_BYTES:
                    raise SampleSkipped("image too large", f"{name}: {path.stat().st_size} bytes")
                return path.read_bytes()
            packed = path.parent.with_suffix(".zip")
            if packed.is_file() and self._is_inside(packed):
                return _read_packed(packed, str(path.relative_to(packed.parent)))
        except (OSError, ValueError) as error:
            raise SampleSkipped("unreadable image", f"{name}: {error}") from error
        raise SampleSkipped(NO_IMAGE, name)

    def _is_inside(self, path: Path) -> bool:
        real = path.resolve()
        return real.is_relative_to(self.folder) or real.is_relative_to(self.images)


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file that are not blank."""
    with path.open("rb") as file:
        yield from (line for line in file if line.strip())


def rows_of(path: Path, needed: Collection[str], others: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file: the columns that are needed, and of the others those that are there.

    Raises ConfigError where it cannot be read, or lacks a needed column.
    """
    try:
        table = pq.ParquetFile(path)
        names = set(table.schema_arrow.names)
        if not names.issuperset(needed):
            there, wanted = ", ".join(sorted(names)), " and ".join(needed)
            raise ConfigError(f"{path} has the columns {there}, needed are {wanted}")
        for batch in table.iter_batches(batch_size=64, columns=[*needed, *names.intersection(others)]):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {reason(error)}: download it again") from error


def json_of(path: Path, kind: type) -> Any:
    """What a JSON file holds, which has to be a `kind`. Raises ConfigError."""
    try:
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path} is not JSON: {reason(error)}: download it again") from error
    if not isinstance(tree, kind):
        raise ConfigError(f"{path} does not hold {_KINDS[kind]}, which is expected: is it the right file?")
    return tree


def _existing(folder: str, what: str) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ConfigError(f"{what}: {folder} is no folder of this machine: download and unpack the dataset there")
    return path.resolve()


@lru_cache(maxsize=8)
def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{path} is no whole zip file ({error}): download it again") from error


def _read_packed(path: Path, name: str) -> bytes:
    archive = _archive(path)
    try:
        member = archive.getinfo(name)
    except KeyError:
        raise SampleSkipped(NO_IMAGE, f"{name} is not in {path.name}") from None
    if member.file_size > _LARGEST_IMAGE_BYTES:
        raise SampleSkipped("image too large", f"{name}: {member.file_size} bytes")
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise SampleSkipped("unreadable image", f"{name}: {error}") from error
