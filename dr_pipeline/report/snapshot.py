"""How far a run is at a moment: what its displays show, what is stored for `status`, and how both are counted."""

import time
from array import array
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from pydantic import ConfigDict, TypeAdapter

from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardReport, ShardTask
from dr_pipeline.dataset.sample import FILTERED
from dr_pipeline.reinforce.tally import Tally, WorkersProgress
from dr_pipeline.report.limit import limit_of

_RATE_SECONDS = 120.0
"""What `now` means: rates, the device's share and the limit are those of so long."""
_FORECAST_SECONDS = 900.0
"""The time that is left is told by the rate of so long."""
_POINT_EVERY_SECONDS = 5.0
_MOST_FAILURES = 20
_MOST_LATELY = 100_000
"""Shards that have ended, of which a worker's older answer may still say that they are in work."""


@dataclass(frozen=True)
class Snapshot:
    """How far a run is. Counts are of this run, those of shards of its whole plan."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    at: float
    """Seconds since 1970, UTC."""
    seconds: float
    """Since the run began."""
    num_shards: int
    num_done: int
    """Shards, those of earlier runs too."""
    num_failed: int
    num_samples: int
    """Written, those of shards in work too."""
    expected_samples: int | None
    """About how many this run will write; None before the first are written."""
    num_read: int
    """Samples that were read; more than are written, for those under way and those skipped."""
    num_captions: int
    """Drawn."""
    num_views: int
    """Embedded."""
    samples_per_second: float
    """Of the last minutes."""
    mean_samples_per_second: float
    """Since the first worker had its models."""
    views_per_second: float
    captions_per_second: float
    seconds_left: float | None
    """None before a sample is written."""
    device_busy: float | None
    """The part of the last minutes in which the workers' devices computed; None where nobody can tell."""
    limited_by: str | None
    """What is short; see `limit.limit_of`."""
    limited_share: float
    """The part of the last minutes in which that was in use."""
    num_working: int
    """Workers that have their models."""
    num_loading: int
    num_pending: int
    """Workers that have no place yet, or have not answered."""
    loading: str | None
    """The model that is being loaded, where no worker has its models yet."""
    loading_seconds: float
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason → samples, those that scorers have filtered too."""
    usage: dict[str, float] = field(default_factory=dict)
    """What requests took, as in the shards' reports."""
    failures: tuple[tuple[str, str], ...] = ()
    """Name and error of the last shards that failed."""

    @property
    def num_filtered(self) -> int:
        """Samples that scorers have left out."""
        return self.skipped.get(FILTERED, 0)

    @property
    def num_skipped(self) -> int:
        """Samples that cannot be reinforced."""
        return sum(self.skipped.values()) - self.num_filtered

    @classmethod
    def from_tree(cls, tree: object) -> "Snapshot | None":
        """The snapshot of such a tree, which anyone may have written; None where it is none."""
        try:
            return TypeAdapter(cls).validate_python(tree)
        except ValueError:
            return None

    def to_tree(self) -> dict[str, Any]:
        """The snapshot as JSON has it, with figures of a few digits."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


class _Point(NamedTuple):
    """What was done by a moment."""

    seconds: float
    num_samples: int
    work: float
    counts: Tally


class _Work:
    """How much work each shard of a plan is: its bytes, where all are known, else 1. A million take 16 MB."""

    def __init__(self, tasks: Sequence[ShardTask]):
        ordered = sorted(tasks, key=lambda task: task.name)
        has_sizes = all(task.size_bytes for task in ordered)
        self._names = [task.name for task in ordered]
        self._sizes = array("q", ((task.size_bytes or 1) if has_sizes else 1 for task in ordered))
        self.total = sum(self._sizes)

    def of(self, name: str) -> int:
        """A shard's; 0 where it is none of the plan's."""
        index = bisect_left(self._names, name)
        return self._sizes[index] if index < len(self._names) and self._names[index] == name else 0


class Recorder:
    """Counts what a run's shards and workers say, and makes snapshots of it."""

    def __init__(self, plan: Plan):
        self._work = _Work(plan.todo)
        self._ended_work = 0.0
        self._num_done, self._num_shards = len(plan.done), len(plan.done) + len(plan.todo)
        self._began = time.perf_counter()
        self._working_since: float | None = None
        self._num_ended = 0
        self._lately_ended: dict[str, None] = {}
        self._num_failed = self._num_read = self._num_written = self._num_views = self._num_captions = 0
        self._skipped: Counter[str] = Counter()
        self._usage: Counter[str] = Counter()
        self._failures: deque[tuple[str, str]] = deque(maxlen=_MOST_FAILURES)
        self._points: deque[_Point] = deque()

    def add(self, report: ShardReport) -> None:
        """Count a shard that has ended."""
        self._work_for(report.seconds.get("total", 0.0))
        self._num_ended += 1
        self._ended_work += self._work.of(report.name)
        self._lately_ended[report.name] = None
        if len(self._lately_ended) > _MOST_LATELY:
            del self._lately_ended[next(iter(self._lately_ended))]
        if report.status == "failed":
            self._num_failed += 1
            self._failures.append((report.name, report.error or ""))
        self._num_read += report.num_read
        self._num_written += report.num_written
        self._num_views += report.num_views
        self._num_captions += sum(counts["drawn"] for counts in report.captions.values())
        self._skipped.update(report.skipped)
        for used in report.usage.values():
            self._usage.update(used)

    def take(self, progress: WorkersProgress) -> Snapshot:
        """A snapshot, by what the workers say."""
        workers, counts = progress.workers, progress.counts
        working = [worker for worker in workers if not worker.loading]
        shards = {
            name: shard for one in working for name, shard in one.shards.items() if name not in self._lately_ended
        }
        loads = [(one.loading_seconds, one.loading) for one in workers if one.loading and not working]
        loading_seconds, loading = max(loads, default=(0.0, None))
        num_samples = self._num_written + sum(shard.num_written for shard in shards.values())
        num_views = max(round(counts["views_embedded"]), self._num_views)
        num_captions = max(round(counts["captions_drawn"]), self._num_captions)
        work = self._ended_work + sum(shard.share * self._work.of(name) for name, shard in shards.items())
        point = _Point(time.perf_counter(), num_samples, work, counts)
        if working:
            self._work_for(max(worker.counts["worker_seconds"] for worker in working))
        running = point.seconds - self._working_since if self._working_since is not None else 0.0
        recent = self._recent(point)
        lately = counts.since(recent.counts)
        limit = limit_of(lately)
        return Snapshot(
            at=round(time.time(), 3),
            seconds=point.seconds - self._began,
            num_shards=self._num_shards,
            num_done=self._num_done + self._num_ended - self._num_failed,
            num_failed=self._num_failed,
            num_samples=num_samples,
            expected_samples=self._expected(num_samples, work),
            num_read=max(round(counts["samples_read"]), self._num_read),
            num_captions=num_captions,
            num_views=num_views,
            samples_per_second=_ratio(num_samples - recent.num_samples, point.seconds - recent.seconds),
            mean_samples_per_second=_ratio(num_samples, running),
            views_per_second=_ratio(num_views, running),
            captions_per_second=_ratio(num_captions, running),
            seconds_left=self._seconds_left(point),
            device_busy=_device_busy(lately),
            limited_by=limit.by if limit else None,
            limited_share=limit.share if limit else 0.0,
            num_working=len(working),
            num_loading=len(workers) - len(working),
            num_pending=progress.num_pending,
            loading=loading,
            loading_seconds=loading_seconds,
            skipped=dict(sum((Counter(shard.skipped) for shard in shards.values()), self._skipped)),
            usage=dict(self._usage),
            failures=tuple(self._failures),
        )

    def _work_for(self, seconds: float) -> None:
        """Note that a worker has been at work for so long, where it is the first: small runs end before one answers."""
        if self._working_since is None:
            self._working_since = time.perf_counter() - seconds
            self._points.append(_Point(self._working_since, 0, 0.0, Tally()))

    def _recent(self, point: _Point) -> _Point:
        """What was done `_RATE_SECONDS` before this point, or as early as is known; keeps the point for later."""
        if self._working_since is None:
            return point
        if not self._points or point.seconds - self._points[-1].seconds >= _POINT_EVERY_SECONDS:
            self._points.append(point)
        while self._points[0].seconds < point.seconds - _FORECAST_SECONDS:
            self._points.popleft()
        return next((earlier for earlier in self._points if earlier.seconds >= point.seconds - _RATE_SECONDS), point)

    def _expected(self, num_samples: int, work: float) -> int | None:
        if not num_samples or not work:
            return None
        return max(num_samples, round(num_samples / work * self._work.total))

    def _seconds_left(self, point: _Point) -> float | None:
        """By the rate of the last quarter of an hour."""
        left = self._work.total - point.work
        if not self._points or not point.work:
            return None if left else 0.0
        first = self._points[0]
        done, seconds = point.work - first.work, point.seconds - first.seconds
        return left * seconds / done if done > 0 and seconds > 0 else None


def _device_busy(counts: Tally) -> float | None:
    """The part of the workers' time in which their devices computed."""
    if "busy_seconds" not in counts or not counts["worker_seconds"]:
        return None
    return min(1.0, counts["busy_seconds"] / counts["worker_seconds"])


def _ratio(number: float, seconds: float) -> float:
    """A rate, of what cannot get less; 0 where no time has passed."""
    return max(0.0, number) / seconds if seconds > 0 else 0.0
