"""Images for reinforced shards that were published without: looked up in the base dataset that they were made from."""

import hashlib
import io
import json
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dr_pipeline.config.training import Base
from dr_pipeline.dataset import gzipped
from dr_pipeline.dataset.sample import Sample, has_image, parse_json
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.dataset.shards import find_shards
from dr_pipeline.dataset.tar import END_MARK
from dr_pipeline.errors import ConfigError, SampleSkipped, ShardError
from dr_pipeline.storage import Storage, StorageError

NOT_IN_BASE = "not in base"
"""The reason of a sample that the base dataset does not hold: expected, so it fails no shard."""

_READERS = 8
_ID_BYTES = 16
_ROW = np.dtype([("id", f"S{_ID_BYTES}"), ("shard", "u4"), ("start", "u8"), ("end", "u8")])


@dataclass(frozen=True)
class BaseIndex:
    """Where each sample of a base dataset lies."""

    base: Base
    uris: tuple[str, ...]
    path: Path
    """A NumPy file of `_ROW`s, sorted by id."""


class BaseReader:
    """Reads samples of a base dataset by what they are matched by. The index's memory is shared by all processes."""

    def __init__(self, index: BaseIndex):
        self._index = index
        self._storage = Storage(index.base.storage)
        self._rows = np.load(index.path, mmap_mode="r", allow_pickle=False)

    def with_image(self, key: str, fields: dict[str, bytes]) -> dict[str, bytes]:
        """A sample's members as they are where its image is among them, else completed."""
        return fields if has_image(fields) else self.complete(key, fields)

    def complete(self, key: str, fields: dict[str, bytes]) -> dict[str, bytes]:
        """A reinforced sample's members, and those of the base's sample that it lacks.

        Raises SampleSkipped when the base does not hold it or it has nothing to match by, ShardError when the base
        cannot be read.
        """
        identity = sample_id(self._index.base, key, fields)
        wanted = _hashed(identity)
        place = bisect_left(self._rows["id"], wanted)  # np.searchsorted would copy the strided ids
        if place == len(self._rows) or self._rows["id"][place] != wanted:
            raise SampleSkipped(NOT_IN_BASE)
        return self._read(self._rows[place], identity) | fields

    def _read(self, row: np.void, identity: str) -> dict[str, bytes]:
        uri = self._index.uris[row["shard"]]
        try:
            data = self._storage.read_range(uri, int(row["start"]), int(row["end"]))
            samples = list(read_samples(io.BytesIO(data + END_MARK)))
            found = [sample_id(self._index.base, sample.key, sample.members) for sample in samples]
        except (StorageError, ShardError, SampleSkipped) as error:
            raise ShardError(f"{uri}: data.base: {identity} cannot be read at byte {row['start']}: {error}") from error
        if found != [identity]:
            raise ShardError(
                f"{uri}: data.base: at byte {row['start']} lies {', '.join(found) or 'nothing'}, not {identity}: the "
                f"shard was changed after it was indexed; delete {self._index.path}"
            )
        return samples[0].members


def open_index(base: Base, folder: Path) -> BaseIndex:
    """The index of a base dataset, kept in a local folder under a name that its shards and their sizes decide.

    Raises ConfigError when the base cannot be listed or none of its samples has the field to match by, ShardError
    naming the shard that cannot be read.
    """
    storage = Storage(base.storage)
    sizes = find_shards(base.shards, storage, "data.base.shards").all_present()
    digest = hashlib.sha256(json.dumps([base.match, sizes]).encode()).hexdigest()[:16]
    index = BaseIndex(base, tuple(sizes), folder / f"base-{digest}.npy")
    if not index.path.exists():
        _write(index, storage)
    return index


def sample_id(base: Base, key: str, fields: dict[str, bytes]) -> str:
    """What a sample is matched by: its key, or a field of its json. Raises SampleSkipped when it has none."""
    if base.match == "key":
        return key
    if "json" not in fields:
        raise SampleSkipped(f"no {base.match} in json", "the sample has no json member")
    tree = parse_json(fields["json"], "json")
    if base.match not in tree:
        raise SampleSkipped(f"no {base.match} in json", f"its fields are {', '.join(tree) or 'none'}")
    return str(tree[base.match])


def _write(index: BaseIndex, storage: Storage) -> None:
    with ThreadPoolExecutor(_READERS) as pool:
        parts = list(pool.map(lambda number: _scan(index, number, storage), range(len(index.uris))))
    rows = np.concatenate(parts)
    if not len(rows):
        raise ConfigError(
            f"data.base.match: no sample of data.base.shards has the field {index.base.match!r} in its json; "
            "name another field, or `key` where both sides have the same keys"
        )
    with Storage().staged(str(index.path)) as path, path.open("wb") as file:
        np.save(file, rows[np.argsort(rows["id"], kind="stable")], allow_pickle=False)


def _scan(index: BaseIndex, number: int, storage: Storage) -> np.ndarray:
    """One shard's rows. Of the members only json is read, and only to match by."""
    uri = index.uris[number]
    by_key = index.base.match == "key"
    try:
        with storage.open(uri) as stream:
            if stream.read(len(gzipped.MARK)) == gzipped.MARK:
                raise ShardError("its samples are looked up by their place, and it is packed by gzip: gunzip it")
            stream.seek(0)
            samples = read_samples(stream, lambda name: not by_key and name.lower().endswith(".json"))
            rows = [(identity, number, *sample.span) for identity, sample in _identified(index.base, samples)]
    except (ShardError, StorageError) as error:
        raise ShardError(f"{uri}: data.base: {error}") from error
    return np.array(rows, dtype=_ROW)


def _identified(base: Base, samples: Iterator[Sample]) -> Iterator[tuple[bytes, Sample]]:
    """Every sample that has an id, with the id hashed."""
    for sample in samples:
        try:
            identity = sample_id(base, sample.key, sample.members)
        except SampleSkipped:
            continue
        if sample.hard_link:
            name, target = sample.hard_link
            raise ShardError(
                f"{name} is a hard link, and {target} does not lie with its sample: write the tar with "
                "--hard-dereference"
            )
        yield _hashed(identity), sample


def _hashed(identity: str) -> bytes:
    digest = hashlib.blake2b(identity.encode(errors="backslashreplace"), digest_size=_ID_BYTES).digest()
    return digest.rstrip(b"\0")  # as NumPy gives it back
