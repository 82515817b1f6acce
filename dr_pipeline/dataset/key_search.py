"""Finds the shard that holds a key: by the manifest's tables of samples, or by the tars where there is none."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from os.path import commonprefix
from typing import NamedTuple

from dr_pipeline.dataset.manifest import read_sample_table
from dr_pipeline.dataset.paths import OutputPaths, shard_of
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import ConfigError, ShardError, nearest
from dr_pipeline.storage import Storage
from dr_pipeline.words import plural

_READERS = 16
_PAGE_TABLES = 256
_NUM_SIMILAR = 20
_NUM_EXAMPLES = 3


class Place(NamedTuple):
    """Where a key was found."""

    shard: str
    by_manifest: bool
    """Whether a table of samples told it; otherwise shards were read."""
    num_searched: int
    """Tables and shards that were read for it."""


class _Keys(NamedTuple):
    shard: str
    keys: list[str]
    by_manifest: bool


def never() -> bool:
    """False, as for a search that is not given up."""
    return False


def find_key(
    storage: Storage, root: str, shards: Iterable[str], key: str, is_given_up: Callable[[], bool] = never
) -> Place:
    """The first of these shards that is found to hold a key, reinforced or skipped.

    `is_given_up` is asked before each shard, from the second on, for there may be many. Raises ConfigError with the
    nearest keys where none holds it, or the search is given up, StorageError or ShardError where one cannot be read.
    """
    similar, examples = list[str](), list[str]()
    for number, (shard, keys, by_manifest) in enumerate(_read_keys(storage, root, shards, key), start=1):
        if key in keys:
            return Place(shard, by_manifest, number)
        if is_given_up():
            raise ConfigError(f"{root}: the search for {key!r} was given up after {plural(number, 'shard')}")
        examples = examples or keys[:_NUM_EXAMPLES]
        similar = heapq.nlargest(_NUM_SIMILAR, similar + keys, lambda other: len(commonprefix((other, key))))  # noqa: RUF071
    if not examples:
        raise ConfigError(f"{root}: no sample {key!r}: there is no sample at all")
    shown = ", ".join(map(repr, examples))
    raise ConfigError(f"{root}: no sample {key!r}; keys are such as {shown}{nearest(key, similar)}")


def _read_keys(storage: Storage, root: str, shards: Iterable[str], key: str) -> Iterator[_Keys]:
    """The keys of each shard: of those that have a table of samples first, for these are small.

    A shard that the key begins with the name of, as of tools that number samples within shards, comes before others.
    """
    stems = {name: name.rpartition("/")[2].partition(".")[0] for name in shards}
    names = sorted(stems, key=lambda name: (not key.startswith(stems[name]), name))
    tables = {shard_of(file) for file in storage.files(OutputPaths(root).sample_tables)}
    tabled = (name for name in names if name in tables)

    def keys_of(name: str) -> list[str]:
        return read_sample_table(storage, root, name, ["key"])["key"].to_pylist()

    with ThreadPoolExecutor(_READERS) as pool:
        while page := list(islice(tabled, _PAGE_TABLES)):
            for name, keys in zip(page, pool.map(keys_of, page), strict=True):
                yield _Keys(name, keys, by_manifest=True)
    for name in names:
        if name not in tables:
            yield _Keys(name, _keys_of_shard(storage, root, name), by_manifest=False)


def _keys_of_shard(storage: Storage, root: str, shard: str) -> list[str]:
    uri = OutputPaths(root).shard(shard)
    with storage.open(uri) as stream:
        try:
            return [sample.key for sample in read_samples(stream, lambda name: False)]
        except ShardError as error:
            raise ShardError(f"{uri}: {error}") from error
