"""Reads the samples of a dataset, or of one tar, for people who look at them: in order, or by key."""

import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

from dr_pipeline.dataset import gzipped
from dr_pipeline.dataset.config_json import paired_teachers_of, read_config
from dr_pipeline.dataset.key_search import Place, find_key, never
from dr_pipeline.dataset.manifest import SampleRow, read_sample_rows
from dr_pipeline.dataset.paths import OutputPaths
from dr_pipeline.dataset.reports import Reports
from dr_pipeline.dataset.sample import Sample, split_name
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.dataset.tar import END_MARK
from dr_pipeline.dataset.unfinished import no_shard, why_unfinished
from dr_pipeline.errors import ConfigError, ShardError, nearest
from dr_pipeline.report.sample_record import SampleRecord, make_record, record_of_skipped
from dr_pipeline.storage import Storage
from dr_pipeline.views.recipe import WINDOW, read_recipe

_MOST_FOLDERS = 4
"""How far above a tar the config.json of its dataset is looked for."""

Wanted = Callable[[str], bool]
"""Whether a member of a tar is to be read, by its name."""


class Shown(NamedTuple):
    """A record with its sample, for whoever shows pictures too."""

    record: SampleRecord
    sample: Sample | None = None
    """Decoded; None of a skipped sample, of which the manifest alone knows."""
    earlier: tuple[Sample, ...] = ()
    """Where views are mixed, the samples before it in its shard, with which they may be."""


class DatasetReader:
    """The samples of a dataset of any writer, or of one tar."""

    def __init__(self, uri: str, storage: Storage):
        """List the shards. Raises ConfigError where there is none, or config.json does not tell how to replay views."""
        self.storage = storage
        self.uri = storage.absolute(uri)
        self.is_tar = storage.is_file(self.uri)
        self.root = _root_of(self.uri, storage) if self.is_tar else self.uri
        self.paths = OutputPaths(self.root)
        self.config = read_config(self.root, storage)
        self.ours: dict[str, Any] = self.config.get("dr_pipeline", {})
        """What this package has written into it; empty of another program's dataset."""
        fingerprint = str(self.ours.get("fingerprint", ""))
        self.reports = Reports(storage, self.root, fingerprint) if fingerprint and not self.is_tar else None
        """Of the shards; None of one tar, and of another program's dataset."""
        self.recipe = read_recipe(self.config)
        self.dims = _dims_of(self.config)
        self.shards = [self.paths.relative(self.uri)] if self.is_tar else sorted(storage.shards(self.root))
        """Their names, sorted."""
        if not self.shards:
            raise no_shard(self.uri, "inspect", storage)
        self.unfinished = "" if self.is_tar else why_unfinished(self.root, self.config, storage)
        """Why the dataset is not whole, or ""."""

    @property
    def name(self) -> str:
        """The folder's, or the tar's."""
        return self.uri.rstrip("/").rpartition("/")[2] or "dataset"

    @property
    def title(self) -> str:
        """What the dataset is called: its job's name, else its folder's."""
        return str(self.ours.get("name") or self.name)

    @cached_property
    def places(self) -> dict[str, int]:
        """Name of a shard → its place among the shards."""
        return {name: place for place, name in enumerate(self.shards)}

    def place(self, name: str) -> int:
        """The place of a shard. Raises ConfigError, with the nearest name, where there is none of this name."""
        if name not in self.places:
            raise ConfigError(f"{self.uri}: no shard {name}{nearest(name, self.shards)}")
        return self.places[name]

    def read(self, shard: str, wanted: Wanted = lambda name: True) -> Iterator[Shown]:
        """The samples of a shard in order, each with the members whose names are wanted.

        Raises ShardError or StorageError where the shard, or its table of samples, cannot be read.
        """
        rows = self.rows(shard)
        for sample, earlier in self.walk(shard, wanted):
            yield self.show(shard, sample, rows, earlier)

    def show(
        self, shard: str, sample: Sample, rows: Mapping[str, SampleRow], earlier: tuple[Sample, ...] = ()
    ) -> Shown:
        """A sample of a shard with its record; `rows`: by key, those of the shard's table."""
        record = make_record(sample, shard, self.recipe, self.dims, rows.get(sample.key))
        return Shown(record, sample, earlier)

    def walk(self, shard: str, wanted: Wanted) -> Iterator[tuple[Sample, tuple[Sample, ...]]]:
        """The samples of a shard as they are stored, each with those before it that its views may be mixed with.

        Raises as `read`.
        """
        earlier = deque[Sample](maxlen=WINDOW)
        with self.storage.open(self.paths.shard(shard)) as stream:
            try:
                for sample in read_samples(stream, wanted):
                    yield sample, tuple(earlier)
                    if self.recipe.mixings:
                        earlier.append(sample)
            except ShardError as error:
                raise ShardError(f"{self.paths.shard(shard)}: {error}") from error

    def is_packed(self, shard: str) -> bool:
        """Whether a shard is packed by gzip, so that no part of it can be read alone. Raises StorageError."""
        return self.storage.read_range(self.paths.shard(shard), 0, len(gzipped.MARK)) == gzipped.MARK

    def read_whole(self, shard: str, sample: Sample) -> Sample:
        """A sample with all its members, of a shard that is not packed, of which a walk has read some.

        Raises ShardError where the shard has changed, StorageError.
        """
        uri = self.paths.shard(shard)
        data = self.storage.read_range(uri, *sample.span)
        with suppress(ShardError):
            for whole in read_samples(io.BytesIO(data + END_MARK)):
                if whole.key == sample.key:
                    whole.index, whole.skip = sample.index, sample.skip
                    return whole
        raise ShardError(f"{uri}: {sample.key} is no longer where it was: the shard was changed meanwhile")

    def find(self, key: str, shards: list[str], is_given_up: Callable[[], bool] = never) -> tuple[Place, Shown]:
        """A sample of these shards by its key, also a skipped one, and how it was found.

        Raises ConfigError with the nearest key where there is none, or where the search is given up meanwhile,
        ShardError or StorageError as `read`.
        """
        place = find_key(self.storage, self.root, shards, key, is_given_up)
        row = self.rows(place.shard).get(key)
        if row is not None and row.skip_reason:
            return place, Shown(record_of_skipped(row, place.shard))

        def is_of_key(name: str) -> bool:
            stem = split_name(name)[0]
            return key == stem or key.startswith(f"{stem}.")  # the key of a sample with dots in it

        samples = self.read(place.shard) if self.recipe.mixings else self.read(place.shard, is_of_key)
        for shown in samples:
            if shown.record.key == key:
                return place, shown
        raise ShardError(f"{self.paths.shard(place.shard)}: its table of samples has {key}, and it has not: run verify")

    def rows(self, shard: str) -> dict[str, SampleRow]:
        """Key → row of a shard's table of samples; none where there is no table."""
        with suppress(FileNotFoundError):
            rows = read_sample_rows(self.storage, self.root, shard)
            # Of several samples of one key, all but one are skipped.
            return {row.key: row for row in sorted(rows, key=lambda row: row.skip_reason is None)}
        return {}


def _root_of(tar: str, storage: Storage) -> str:
    """The folder of the dataset that a tar belongs to: the nearest above it that describes views, else its own."""
    folder = tar
    for _ in range(_MOST_FOLDERS):
        folder = folder.rpartition("/")[0]
        if not folder or folder.endswith("/"):
            break
        with suppress(ConfigError):  # another program's file
            if "reinforce" in read_config(folder, storage):
                return folder
    return tar.rpartition("/")[0]


def _dims_of(config: dict[str, Any]) -> dict[str, int] | None:
    """The paired teachers in order, with the lengths of their vectors; None where config.json does not tell them."""
    try:
        dims = {str(teacher["name"]): teacher["dim"] for teacher in paired_teachers_of(config)}
    except (KeyError, TypeError, AttributeError):
        return None
    return dims if dims and all(type(dim) is int and dim > 0 for dim in dims.values()) else None
