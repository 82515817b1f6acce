"""An index of a base dataset, in which reinforced samples that were published without their images find them."""

import hashlib
import io
import json
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dr_pipeline.config.training import Base
from dr_pipeline.dataset import gzipped
from dr_pipeline.dataset.sample import Sample, has_image, parse_json
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.dataset.shard_patterns import find_shards
from dr_pipeline.dataset.tar import END_MARK
from dr_pipeline.errors import ConfigError, SampleSkipped, ShardError
from dr_pipeline.storage import Storage, StorageError

NOT_IN_BASE = "not in base"
"""The reason to skip a sample that the base dataset does not hold. It is expected, and fails no shard."""

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
    """Reads samples of a base dataset by their ids. All processes of a machine share the memory of the index."""

    def __init__(self, index: BaseIndex):
        self._index = index
        self._storage = Storage(index.base.storage)
        self._rows = np.load(index.path, mmap_mode="r", allow_pickle=False)

    def add_image(self, sample: Sample) -> None:
        """Give a reinforced sample without an image the members of the base's sample that it lacks.

        Raises SampleSkipped when the base does not hold the sample, or the sample has no id, ShardError when the base
        cannot be read.
        """
        if has_image(sample.members):
            return
        identity = sample_id(self._index.base, sample)
        wanted = _hashed(identity)
        place = bisect_left(self._rows["id"], wanted)  # np.searchsorted would copy the strided ids
        if place == len(self._rows) or self._rows["id"][place] != wanted:
            raise SampleSkipped(NOT_IN_BASE)
        row = self._rows[place]
        uri = self._index.uris[row["shard"]]
        try:
            data = self._storage.read_range(uri, int(row["start"]), int(row["end"]))
            samples = list(read_samples(io.BytesIO(data + END_MARK)))
            found = [sample_id(self._index.base, one) for one in samples]
        except (StorageError, ShardError, SampleSkipped) as error:
            raise ShardError(f"{uri}: data.base: {identity} cannot be read at byte {row['start']}: {error}") from error
        if found != [identity]:
            raise ShardError(
                f"{uri}: data.base: at byte {row['start']} lies {', '.join(found) or 'nothing'}, not {identity}: the "
                f"shard was changed after it was indexed; delete {self._index.path}"
            )
        sample.members = samples[0].members | sample.members


def open_index(base: Base, folder: Path) -> BaseIndex:
    """The index of a base dataset, kept in a local folder under a name that the shards and their sizes decide.

    Raises StorageError when the base cannot be listed, ConfigError when none of its samples has the field to match by,
    ShardError naming the shard that cannot be read.
    """
    storage = Storage(base.storage)
    sizes = find_shards(base.shards, storage, "data.base.shards").all_present()
    digest = hashlib.sha256(json.dumps([base.match, sizes]).encode()).hexdigest()[:16]
    index = BaseIndex(base, tuple(sizes), folder / f"base-{digest}.npy")
    if index.path.exists():
        return index
    with ThreadPoolExecutor(_READERS) as pool:
        rows = np.concatenate(list(pool.map(lambda number: _rows_of(index, number, storage), range(len(sizes)))))
    if not len(rows):
        raise ConfigError(
            f"data.base.match: no sample of data.base.shards has the field {base.match!r} in its json; "
            "name another field, or `key` where both sides have the same keys"
        )
    with Storage().staged(str(index.path)) as path, path.open("wb") as file:
        np.save(file, rows[np.argsort(rows["id"], kind="stable")], allow_pickle=False)
    return index


def sample_id(base: Base, sample: Sample) -> str:
    """A sample's id, by which both datasets are matched: the key, or a field of its json. Raises SampleSkipped."""
    if base.match == "key":
        return sample.key
    if "json" not in sample.members:
        raise SampleSkipped(f"no {base.match} in json", "the sample has no json member")
    tree = parse_json(sample.members["json"], "json")
    if base.match not in tree:
        raise SampleSkipped(f"no {base.match} in json", f"its fields are {', '.join(tree) or 'none'}")
    return str(tree[base.match])


def _rows_of(index: BaseIndex, number: int, storage: Storage) -> np.ndarray:
    """A `_ROW` for each sample of a shard that has an id. No member is read but json, where that holds the id."""
    uri = index.uris[number]
    by_key = index.base.match == "key"
    rows = []
    try:
        with storage.open(uri) as file:
            if file.read(len(gzipped.MARK)) == gzipped.MARK:
                raise ShardError("its samples are looked up by their place, and it is packed by gzip: gunzip it")
            file.seek(0)
            for sample in read_samples(file, lambda name: not by_key and name.lower().endswith(".json")):
                try:
                    identity = sample_id(index.base, sample)
                except SampleSkipped:
                    continue
                if sample.hard_link:
                    name, target = sample.hard_link
                    raise ShardError(
                        f"{name} is a hard link, and {target} does not lie with its sample: write the tar with "
                        "--hard-dereference"
                    )
                rows.append((_hashed(identity), number, *sample.span))
    except (ShardError, StorageError) as error:
        raise ShardError(f"{uri}: data.base: {error}") from error
    return np.array(rows, dtype=_ROW)


def _hashed(identity: str) -> bytes:
    digest = hashlib.blake2b(identity.encode(errors="backslashreplace"), digest_size=_ID_BYTES).digest()
    return digest.rstrip(b"\0")  # as NumPy gives it back
