"""Counts what a run's shards and workers say, and makes snapshots of it."""

import time
from array import array
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardReport, ShardTask
from dr_pipeline.reinforce.tally import Tally, WorkersProgress
from dr_pipeline.report.snapshot import Snapshot

_RATE_SECONDS = 120.0
"""What `now` means: rates, the device's share and the limit are those of so long."""
_FORECAST_SECONDS = 900.0
"""The time that is left is told by the rate of so long."""
_POINT_EVERY_SECONDS = 5.0
_MOST_FAILURES = 20
_MOST_LATELY = 100_000
"""Shards that have ended, of which a worker's older answer may still say that they are in work."""
_LEAST_SHARE = 0.3
"""Below that nothing is short: the run begins or ends."""
_ON_CORES = ("decode", "draw", "render", "tokenize", "encode")
_ON_DEVICE = {
    "caption": "captions on the device",
    "embed_images": "embedding views on the device",
    "embed_texts": "embedding texts on the device",
    "score": "scores on the device",
}


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
        counts, working = progress.counts, [worker for worker in progress.workers if not worker.loading]
        loads = [(worker.loading_seconds, worker.loading) for worker in progress.workers if worker.loading]
        loading_seconds, loading = (0.0, None) if working else max(loads, default=(0.0, None))
        if working:
            self._work_for(max(worker.counts["worker_seconds"] for worker in working))
        shards = {name: shard for worker in working for name, shard in worker.shards.items()}
        shards = {name: shard for name, shard in shards.items() if name not in self._lately_ended}
        num_samples = self._num_written + sum(shard.num_written for shard in shards.values())
        num_views = max(round(counts["views_embedded"]), self._num_views)
        num_captions = max(round(counts["captions_drawn"]), self._num_captions)
        work = self._ended_work + sum(shard.share * self._work.of(name) for name, shard in shards.items())
        now = _Point(time.perf_counter(), num_samples, work, counts)
        running = now.seconds - self._working_since if self._working_since is not None else 0.0
        recent = self._recent(now)
        lately = counts.since(recent.counts)
        expected = max(num_samples, round(num_samples / work * self._work.total)) if num_samples and work else None
        has_busy = "busy_seconds" in lately and lately["worker_seconds"]
        limit = limit_of(lately)
        return Snapshot(
            at=round(time.time(), 3),
            seconds=now.seconds - self._began,
            num_shards=self._num_shards,
            num_done=self._num_done + self._num_ended - self._num_failed,
            num_failed=self._num_failed,
            num_samples=num_samples,
            expected_samples=expected,
            num_read=max(round(counts["samples_read"]), self._num_read),
            num_captions=num_captions,
            num_views=num_views,
            samples_per_second=_ratio(num_samples - recent.num_samples, now.seconds - recent.seconds),
            mean_samples_per_second=_ratio(num_samples, running),
            views_per_second=_ratio(num_views, running),
            captions_per_second=_ratio(num_captions, running),
            seconds_left=self._seconds_left(now),
            device_busy=min(1.0, lately["busy_seconds"] / lately["worker_seconds"]) if has_busy else None,
            limited_by=limit.by if limit else None,
            limited_share=limit.share if limit else 0.0,
            num_working=len(working),
            num_loading=len(progress.workers) - len(working),
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

    def _seconds_left(self, now: _Point) -> float | None:
        """By the rate of the last quarter of an hour."""
        left = self._work.total - now.work
        if not self._points or not now.work:
            return None if left else 0.0
        first = self._points[0]
        done, seconds = now.work - first.work, now.seconds - first.seconds
        return left * seconds / done if done > 0 and seconds > 0 else None


def _ratio(number: float, seconds: float) -> float:
    """A rate, of what cannot get less; 0 where no time has passed."""
    return max(0.0, number) / seconds if seconds > 0 else 0.0


class Limit(NamedTuple):
    """What is short, and the part of the time in which it was in use."""

    by: str
    share: float


def limit_of(counts: Tally) -> Limit | None:
    """What limited the workers in the time in which these counts were added; None where nothing did.

    A device that computes, cores that prepare samples, an endpoint that is waited for, and the streams that a shard is
    read from and written to can each be in use up to the whole of the time: the one that comes next to it is the limit.
    """
    seconds, waited = counts.group("seconds"), counts.group("waited")
    worker_seconds, shard_seconds = counts["worker_seconds"], counts["shard_seconds"]
    if not worker_seconds or not shard_seconds:
        return None
    on_cores = sum(seconds.get(stage, 0.0) for stage in _ON_CORES)
    on_device = {words: seconds.get(stage, 0.0) for stage, words in _ON_DEVICE.items()}
    busy_seconds = counts.get("busy_seconds", sum(on_device.values()))
    # A GPU's stages that embed only launch its work: views get what is left of the time in which it computed.
    on_device[_ON_DEVICE["embed_images"]] += max(0.0, busy_seconds - sum(on_device.values()))
    shares = {
        max(on_device, key=lambda words: on_device[words]): busy_seconds / worker_seconds,
        "decoding on the cores": on_cores / counts["core_seconds"],
        "the endpoint": waited.get("requests", 0.0) / shard_seconds,
        "reading": seconds.get("read", 0.0) / shard_seconds,
        "writing": (seconds.get("write", 0.0) + seconds.get("upload", 0.0)) / shard_seconds,
    }
    by, share = max(shares.items(), key=lambda item: item[1])
    return Limit(by, min(1.0, share)) if share >= _LEAST_SHARE else None
