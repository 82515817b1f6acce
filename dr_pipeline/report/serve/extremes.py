"""The samples with the lowest or the highest values, by the manifest's tables of samples, some tables at a time.

A request reads tables for a second and gives the extreme samples among them; whoever asks merges them with those of the
requests before.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dr_pipeline.config.cards import SIMILARITY
from dr_pipeline.dataset.manifest import score_columns
from dr_pipeline.dataset.sample import TEXT
from dr_pipeline.errors import ShardError
from dr_pipeline.report.dataset_reader import DatasetReader
from dr_pipeline.report.look.sample_counts import first_rows
from dr_pipeline.storage import StorageError

MOST_RANKED = 100
_SECONDS = 1.0
_READERS = 8
_SCORE = "score:"


class Order(NamedTuple):
    """By what samples are sorted."""

    by: str
    """`similarity`, or `score:NAME` of a scorer."""
    of: str
    """Of a similarity: TEXT, a key of `syn.json`, or "" for all captions."""
    descends: bool

    def values(self, table: pa.Table) -> np.ndarray:
        """The values of a table's samples, [S], NaN where one has none."""
        if self.by.startswith(_SCORE):
            return score_columns(table).get(self.by.removeprefix(_SCORE), np.full(len(table), np.nan))
        ground_truth, synthetic = (_floats(table, name) for name in ("similarity", "synthetic_similarity"))
        if self.of == TEXT:
            return ground_truth
        if not self.of:
            num_own, num_synthetic = (_floats(table, name) for name in ("captions", "synthetic_captions"))
            num_synthetic = np.where(np.isnan(synthetic), 0, num_synthetic)
            return (ground_truth * num_own + np.nan_to_num(synthetic) * num_synthetic) / (num_own + num_synthetic)
        scores = score_columns(table).items()
        by_teacher = [values for name, values in scores if name.startswith(SIMILARITY) and name.endswith(f"/{self.of}")]
        return np.mean(by_teacher, axis=0) if by_teacher else np.full(len(table), np.nan)


class Ranked(NamedTuple):
    """A sample in the order of its value."""

    shard: str
    key: str
    value: float


@dataclass
class Ranking:
    """The extreme samples of some shards."""

    samples: list[Ranked] = field(default_factory=list)
    next: int | None = None
    """The shard at which the next request goes on."""
    problems: list[str] = field(default_factory=list)


def rank(reader: DatasetReader, order: Order, first: int, last: int) -> Ranking:
    """The extreme samples of the shards from `first` up to `last`, or of as many of them as a second suffices for."""
    ranking, deadline = Ranking(next=first), time.monotonic() + _SECONDS
    with ThreadPoolExecutor(_READERS) as pool:
        while ranking.next is not None and time.monotonic() < deadline:
            places = range(ranking.next, min(ranking.next + _READERS, last))
            for ranked in pool.map(lambda place: _rank_one(reader, order, place), places):
                if isinstance(ranked, str):
                    ranking.problems.append(ranked)
                else:
                    ranking.samples += ranked
            ranking.samples.sort(key=lambda one: one.value, reverse=order.descends)
            del ranking.samples[MOST_RANKED:]
            ranking.next = places.stop if places.stop < last else None
    return ranking


def _rank_one(reader: DatasetReader, order: Order, place: int) -> list[Ranked] | str:
    """The extreme samples of a shard, or why its table cannot be read; none where there is none."""
    shard = reader.shards[place]
    try:
        table = first_rows(reader.storage, reader.root, shard)
    except (ShardError, StorageError) as error:
        return str(error)
    if table is None:
        return []
    values_S = order.values(table)
    values_S[table["skip_reason"].is_valid().to_numpy() | ~np.isfinite(values_S)] = np.nan
    ranked = np.argsort(-values_S if order.descends else values_S)  # NaN comes last
    chosen = [int(row) for row in islice(ranked, MOST_RANKED) if np.isfinite(values_S[row])]
    keys = table["key"].take(pa.array(chosen, pa.int64())).to_pylist()
    return [Ranked(shard, key, float(values_S[row])) for key, row in zip(keys, chosen, strict=True)]


def _floats(table: pa.Table, column: str) -> np.ndarray:
    return table[column].to_numpy().astype(np.float64)
