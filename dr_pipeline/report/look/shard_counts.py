"""Sums over the manifest's table of shards, which is read page by page, and what was at work when."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dr_pipeline.dataset.paths import OutputPaths
from dr_pipeline.errors import ShardError
from dr_pipeline.storage import Storage

_SUMMED = ("num_read", "num_written", "num_views", "num_synthetic", "size_bytes", "num_members")
_NESTED = ("skipped", "passed_over", "seconds")
_PAGE_ROWS = 10_000
_MOST_ERRORS = 50
_NUM_SPANS = 60


@dataclass
class ShardCounts:
    """Sums over all shards of the manifest."""

    num_done: int = 0
    num_failed: int = 0
    sums: Counter[str] = field(default_factory=Counter)
    """Column of the table → its sum."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Reason → samples."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Reason → members."""
    seconds: Counter[str] = field(default_factory=Counter)
    """Stage → seconds at work."""
    errors: list[tuple[str, str]] = field(default_factory=list)
    """Name and error of the first shards that failed."""
    began_at: float = np.inf
    """Seconds since 1970; infinite where no row tells it."""
    ended_at: float = -np.inf


class Timeline(NamedTuple):
    """A run in equal spans of time. T: spans."""

    hours_T: list[float]
    """Of the middle of each span, since the first shard began."""
    busy_T: list[float]
    """Per cent of the time that the device computed; NaN where no shard was in work."""
    samples_per_s_T: list[float]
    """Samples written, as if each shard wrote them evenly; NaN where no shard was in work."""


def count_shards(storage: Storage, root: str) -> ShardCounts | None:
    """The sums; None where there is no table. Raises ShardError where it is damaged, or StorageError."""
    if not storage.exists(OutputPaths(root).shard_table):
        return None
    counts = ShardCounts()
    for page in _pages(storage, root):
        for row in page:
            if row["status"] == "done":
                _add(counts, row)
            else:
                counts.num_failed += 1
                counts.errors += [(row["name"], row["error"] or "")] * (len(counts.errors) < _MOST_ERRORS)
    return counts


def timeline(storage: Storage, root: str, counts: ShardCounts) -> Timeline | None:
    """When how much was done, by a second reading of the table; None where its rows do not tell when shards ended."""
    if not counts.ended_at > counts.began_at:
        return None
    edges_E = np.linspace(counts.began_at, counts.ended_at, _NUM_SPANS + 1)
    in_work_T, busy_T, samples_T = (np.zeros(_NUM_SPANS) for _ in range(3))
    for page in _pages(storage, root):
        timed = [row for row in page if _is_timed(row)]
        ends_R1 = np.array([row["finished_at"] for row in timed]).reshape(-1, 1)
        totals_R1 = np.array([_total(row) for row in timed]).reshape(-1, 1)
        overlap_RT = np.minimum(edges_E[1:], ends_R1) - np.maximum(edges_E[:-1], ends_R1 - totals_R1)
        shares_RT = overlap_RT.clip(min=0) / totals_R1
        in_work_T += totals_R1[:, 0] @ shares_RT
        busy_T += np.array([row["seconds"].get("device", np.nan) for row in timed]) @ shares_RT
        samples_T += np.array([float(row["num_written"]) for row in timed]) @ shares_RT
    span = float(edges_E[1] - edges_E[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        busy_T, samples_T = 100 * busy_T / in_work_T, np.where(in_work_T > 0, samples_T / span, np.nan)
    hours_T = ((edges_E[1:] + edges_E[:-1]) / 2 - counts.began_at) / 3600
    return Timeline(hours_T.tolist(), busy_T.tolist(), samples_T.tolist())


def _add(counts: ShardCounts, row: dict[str, Any]) -> None:
    """Add a finished shard."""
    counts.num_done += 1
    counts.sums.update({name: row[name] for name in _SUMMED})
    for name in _NESTED:
        getattr(counts, name).update(row[name])
    if _is_timed(row):
        counts.began_at = min(counts.began_at, row["finished_at"] - _total(row))
        counts.ended_at = max(counts.ended_at, row["finished_at"])


def _is_timed(row: dict[str, Any]) -> bool:
    """Whether it is known when a finished shard was in work."""
    return bool(row["status"] == "done" and row.get("finished_at") and _total(row))


def _total(row: dict[str, Any]) -> float:
    """The seconds that a shard took."""
    return float(row["seconds"].get("total", 0))


def _pages(storage: Storage, root: str) -> Iterator[list[dict[str, Any]]]:
    """The table's rows, page by page; their JSON is read."""
    uri = OutputPaths(root).shard_table
    wanted = {"name", "status", "error", "finished_at", *_SUMMED, *_NESTED}
    with storage.open(uri) as stream:
        try:
            file = pq.ParquetFile(stream, pre_buffer=False)  # no thread of pyarrow's reads the stream
            columns = [name for name in file.schema_arrow.names if name in wanted]
            for batch in file.iter_batches(_PAGE_ROWS, columns=columns, use_threads=False):
                yield [row | {name: json.loads(row[name]) for name in _NESTED} for row in batch.to_pylist()]
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise ShardError(f"{uri} is no table of shards: {error}; verify tells what is damaged") from error
