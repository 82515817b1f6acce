"""What a choice of the manifest's tables of samples tells: similarities, scores, and samples that were skipped."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dr_pipeline.config.cards import SIMILARITY
from dr_pipeline.dataset.manifest import read_sample_table, score_columns
from dr_pipeline.storage import Storage

_READERS = 16
_MOST_ROWS = 20_000
"""Of one table that are looked at."""
_MOST_SKIPPED = 400


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
    skipped: list[SkippedRow] = field(default_factory=list)
    """The first of them."""
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
            skipped = table.filter(table["skip_reason"].is_valid())
            counts.num_skipped += len(skipped)
            first = skipped.select(["key", "skip_reason", "skip_detail"]).slice(0, _MOST_SKIPPED - len(counts.skipped))
            for row in first.to_pylist():
                counts.skipped.append(SkippedRow(row["key"], shard, row["skip_reason"], row["skip_detail"] or ""))
    for name in sorted({name for part in parts for name in part} - {""}):
        absent = [np.full(len(part[""]), np.nan, np.float32) if name not in part else part[name] for part in parts]
        counts.scores[name] = np.concatenate(absent)
    return counts


def first_rows(storage: Storage, root: str, shard: str) -> pa.Table | None:
    """The first rows of a shard's table of samples; None where there is none. Raises ShardError or StorageError."""
    try:
        return read_sample_table(storage, root, shard).slice(0, _MOST_ROWS)
    except FileNotFoundError:
        return None
