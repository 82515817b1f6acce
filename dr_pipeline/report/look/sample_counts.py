"""What a choice of the manifest's tables of samples tells: similarities, scores, and samples that were skipped."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dr_pipeline.config.cards import SIMILARITY
from dr_pipeline.dataset.manifest import read_sample_table, score_columns
from dr_pipeline.storage import Storage

_READERS = 16
_MOST_ROWS = 20_000
"""Of one table that are looked at."""
_MOST_SKIPPED = 100
"""Of one reason that are named: a filter, which passes over many, hides no damage."""


class SkippedRow(NamedTuple):
    """A sample that is not in the dataset."""

    key: str
    shard: str
    reason: str
    detail: str


@dataclass
class SampleCounts:
    """The tables' columns together. S: samples, NaN where one has no such score."""

    num_tables: int = 0
    num_rows: int = 0
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    """Name of a score, as in the manifest → its values [S]."""
    skipped: dict[str, list[SkippedRow]] = field(default_factory=dict)
    """Reason → the first samples."""
    num_skipped: int = 0

    @property
    def teachers(self) -> dict[str, dict[str, np.ndarray]]:
        """Teacher → `text` or key of `syn.json` → cosines [S], mean over the captions of a key."""
        by_teacher: dict[str, dict[str, np.ndarray]] = {}
        for name, values_S in self.scores.items():
            if name.startswith(SIMILARITY):
                teacher, _, of = name.removeprefix(SIMILARITY).rpartition("/")
                by_teacher.setdefault(teacher, {})[of] = values_S
        return by_teacher

    @property
    def scorers(self) -> dict[str, np.ndarray]:
        """Scorer → scores [S]."""
        return {name: values_S for name, values_S in self.scores.items() if not name.startswith(SIMILARITY)}


def count_samples(storage: Storage, root: str, shards: Sequence[str]) -> SampleCounts:
    """The tables of these shards together; those that are not there are left out.

    Raises ShardError where one is damaged, or StorageError.
    """
    counts = SampleCounts()
    parts: list[dict[str, np.ndarray]] = []
    with ThreadPoolExecutor(_READERS) as pool:
        for shard, table in zip(shards, pool.map(partial(first_rows, storage, root), shards), strict=True):
            if table is None:
                continue
            counts.num_tables += 1
            counts.num_rows += len(table)
            parts.append(score_columns(table) | {"": np.zeros(len(table))})
            _add_skipped(counts, shard, table.filter(table["skip_reason"].is_valid()))
    for name in sorted({name for part in parts for name in part} - {""}):
        absent = [np.full(len(part[""]), np.nan, np.float32) if name not in part else part[name] for part in parts]
        counts.scores[name] = np.concatenate(absent)
    return counts


def _add_skipped(counts: SampleCounts, shard: str, skipped: pa.Table) -> None:
    """Count the skipped samples of a shard, and name the first of each reason."""
    counts.num_skipped += len(skipped)
    for reason in skipped["skip_reason"].unique().to_pylist():
        named = counts.skipped.setdefault(reason, [])
        own = skipped.filter(pc.equal(skipped["skip_reason"], reason)).slice(0, _MOST_SKIPPED - len(named))
        named += [SkippedRow(row["key"], shard, reason, row["skip_detail"] or "") for row in own.to_pylist()]


def first_rows(storage: Storage, root: str, shard: str) -> pa.Table | None:
    """The first rows of a shard's table of samples; None where there is none. Raises ShardError or StorageError."""
    try:
        return read_sample_table(storage, root, shard).slice(0, _MOST_ROWS)
    except FileNotFoundError:
        return None
