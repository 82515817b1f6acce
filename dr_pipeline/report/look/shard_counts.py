"""Sums over the manifest's table of shards, which is read page by page, and when how much was done."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from dr_pipeline.dataset.manifest import published_rows
from dr_pipeline.dataset.paths import OutputPaths
from dr_pipeline.dataset.reports import CountsSkipped
from dr_pipeline.storage import Storage

_SUMMED = ("num_read", "num_written", "num_views", "num_synthetic", "size_bytes", "num_members")
_NESTED = ("skipped", "passed_over", "seconds", "usage")
_COLUMNS = ("name", "status", "error", "finished_at", *_SUMMED, *_NESTED)
_MOST_ERRORS = 50
_NUM_SPANS = 60
_ENDED, _TOTAL, _DEVICE, _WRITTEN = range(4)
"""Columns of a timed shard: when it ended, in seconds since 1970; its seconds; those of the device; samples."""


class Timeline(NamedTuple):
    """A run in equal spans of time. T: spans."""

    began_at: float
    """Seconds since 1970."""
    ended_at: float
    hours_T: list[float]
    """Of the middle of each span, since the first shard began."""
    busy_T: list[float]
    """Per cent of the time that the device computed; NaN where no shard was in work."""
    samples_per_s_T: list[float]
    """Samples written, as if each shard wrote them evenly; NaN where no shard was in work."""


@dataclass
class ShardCounts(CountsSkipped):
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
    usage: Counter[str] = field(default_factory=Counter)
    """What requests took, as in a report's `usage`, of all captioners together."""
    errors: list[tuple[str, str]] = field(default_factory=list)
    """Name and error of the first shards that failed."""
    timed: list[np.ndarray] = field(default_factory=list)
    """Of the finished shards that tell when they ended, in parts: [shards, 4], 32 MB of a million."""

    @property
    def work_seconds(self) -> float:
        """For how long any shard was in work, so without the time between a run and the one that resumed it; or 0."""
        if not self.timed:
            return 0.0
        timed_R4 = np.concatenate(self.timed)
        begins_R = timed_R4[:, _ENDED] - timed_R4[:, _TOTAL]
        order_R = begins_R.argsort()
        begins_R, ends_R = begins_R[order_R], np.maximum.accumulate(timed_R4[order_R, _ENDED])
        idle_seconds = (begins_R[1:] - ends_R[:-1]).clip(min=0).sum()
        return float(ends_R[-1] - begins_R[0] - idle_seconds)

    @cached_property
    def timeline(self) -> Timeline | None:
        """When how much was done; None where the shards do not tell when they ended."""
        if not self.timed:
            return None
        edges_E = np.linspace(
            min((part[:, _ENDED] - part[:, _TOTAL]).min() for part in self.timed),
            max(part[:, _ENDED].max() for part in self.timed),
            _NUM_SPANS + 1,
        )
        in_work_T, busy_T, samples_T = (np.zeros(_NUM_SPANS) for _ in range(3))
        for part in self.timed:
            ends_R1, totals_R1 = part[:, [_ENDED]], part[:, [_TOTAL]]
            overlap_RT = np.minimum(edges_E[1:], ends_R1) - np.maximum(edges_E[:-1], ends_R1 - totals_R1)
            shares_RT = overlap_RT.clip(min=0) / totals_R1
            in_work_T += part[:, _TOTAL] @ shares_RT
            busy_T += part[:, _DEVICE] @ shares_RT
            samples_T += part[:, _WRITTEN] @ shares_RT
        with np.errstate(invalid="ignore", divide="ignore"):
            busy_T = 100 * busy_T / in_work_T
            samples_T = np.where(in_work_T > 0, samples_T / (edges_E[1] - edges_E[0]), np.nan)
        hours_T = (edges_E[:-1] + edges_E[1:]) / 2 - edges_E[0]
        return Timeline(edges_E[0], edges_E[-1], (hours_T / 3600).tolist(), busy_T.tolist(), samples_T.tolist())


def count_shards(storage: Storage, root: str) -> ShardCounts | None:
    """The sums; None where there is no table. Raises ShardError where it is damaged, or StorageError."""
    if not storage.exists(OutputPaths(root).shard_table):
        return None
    counts = ShardCounts()
    for page in _pages(storage, root):
        failed = [(row["name"], row["error"] or "") for row in page if row["status"] != "done"]
        counts.num_failed += len(failed)
        counts.errors += failed[: _MOST_ERRORS - len(counts.errors)]
        done = [row for row in page if row["status"] == "done"]
        counts.num_done += len(done)
        for name in _SUMMED:
            counts.sums[name] += sum(row[name] for row in done)
        timed = []
        for row in done:
            counts.skipped.update(row["skipped"])
            counts.passed_over.update(row["passed_over"])
            counts.seconds.update(row["seconds"])
            for used in row["usage"].values():
                counts.usage.update(used)
            ended, total, device = row["finished_at"], row["seconds"].get("total"), row["seconds"].get("device")
            if ended and total:
                timed.append((ended, total, np.nan if device is None else device, row["num_written"]))
        if timed:
            counts.timed.append(np.array(timed, float))
    return counts


def _pages(storage: Storage, root: str) -> Iterator[list[dict[str, Any]]]:
    """The table's rows, page by page; their JSON is read."""
    for page in published_rows(storage, root, _COLUMNS):
        rows = [dict(zip(_COLUMNS, row, strict=True)) for row in page]
        for row in rows:
            row.update((name, json.loads(row[name]) if row[name] != "{}" else {}) for name in _NESTED)
        yield rows
