"""How far a dataset is, by what is stored in its folder alone: the lease of the run, reports, manifest, config.json."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from dr_pipeline.dataset.config_json import read_config
from dr_pipeline.dataset.paths import RUN, OutputPaths
from dr_pipeline.dataset.reports import describe_usage
from dr_pipeline.report.look.shard_counts import ShardCounts, count_shards
from dr_pipeline.report.snapshot import Snapshot
from dr_pipeline.report.units import in_clock, in_utc
from dr_pipeline.storage import Storage
from dr_pipeline.storage.lease import Seen, see_lease
from dr_pipeline.words import plural

State = Literal["never run", "running", "gone", "stopped", "finished"]
_SHOWN_DIGITS = 8
"""Of another configuration's fingerprint."""
_AS_TOLD = ("num_shards", "num_samples", "device_busy", "skipped", "usage", "failures", "num_failed")
"""What a living run's snapshot tells of a dataset by the same names."""
_END_OF_TIME = 253402300799.0
"""The end of the year 9999, in seconds since 1970."""
_SKEW_SECONDS = 5.0
"""By so much the clocks of two machines may differ without a word."""


@dataclass(frozen=True)
class DatasetStatus:
    """A dataset, and the run that makes it."""

    output: str
    state: State
    """`gone`: its run was killed; `stopped`: it ended before it was through, and has said so."""
    said: str
    """The state in words, with what to do."""
    num_done: int
    """Shards that are committed."""
    num_shards: int | None = None
    """Of the run's plan; None where nothing stored tells."""
    num_samples: int | None = None
    device_busy: float | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason → samples."""
    usage: dict[str, float] = field(default_factory=dict)
    failures: tuple[tuple[str, str], ...] = ()
    """Name and error of shards that failed, the first or the last of them."""
    num_failed: int = 0
    progress: Snapshot | None = None
    """What the run has last told."""
    seconds_silent: float | None = None
    """How long ago that was, by the clock of this machine."""
    of_others: dict[str, int] = field(default_factory=dict)
    """Fingerprint of another configuration → shards of it that lie in the folder."""

    @property
    def needs_care(self) -> bool:
        """Whether somebody has to do something: the run is gone, stopped or never was, or shards have failed."""
        return self.state not in ("running", "finished") or self.num_failed > 0

    def __str__(self) -> str:
        lines = [f"{self.output}: {self.said}"]
        if self.progress:
            lines.append(str(self.progress))
        if self.skipped:
            reasons = [f"{reason} {number:,}" for reason, number in Counter(self.skipped).most_common()]
            lines.append(f"skipped: {', '.join(reasons)}")
        if self.usage:
            lines.append(describe_usage("requests", Counter(self.usage)))
        lines += [f"failed {name}: {error}" for name, error in self.failures]
        if self.num_failed > len(self.failures):
            lines.append(f"failed: {plural(self.num_failed - len(self.failures), 'shard')} more")
        for fingerprint, number in self.of_others.items():
            lines.append(
                f"another configuration, {fingerprint[:_SHOWN_DIGITS]}, has made {plural(number, 'shard')} here"
            )
        return "\n".join(lines)


def dataset_status(uri: str, storage: Storage) -> DatasetStatus:
    """How far the dataset in a folder is. Raises ConfigError, ShardError or StorageError where a file is damaged."""
    root = storage.absolute(uri)
    seen = see_lease(root, RUN, storage)  # first: a run that ends meanwhile has written all that is read below
    ours = read_config(root, storage).get("dr_pipeline", {})
    fingerprint = str(ours.get("fingerprint", ""))
    committed = Counter(name.partition("/")[0] for name in storage.files(OutputPaths(root).reports))
    num_done = committed.pop(fingerprint, 0)
    if seen is not None:
        return _of_a_run(root, seen, num_done, dict(committed))
    counts = count_shards(storage, root) if fingerprint else None
    if counts is None and not num_done:
        said = "never run: no shard was made here" if fingerprint or committed else "never run: no run has written here"
        return DatasetStatus(root, "never run", said, 0, of_others=dict(committed))
    return _of_no_run(root, counts or ShardCounts(), num_done, dict(committed))


def _of_a_run(root: str, seen: Seen, num_done: int, others: dict[str, int]) -> DatasetStatus:
    """Of a dataset whose run lives, or was killed."""
    now, lease = time.time(), seen.record
    progress = Snapshot.from_tree(lease.get("progress"))
    host, _, _ = str(lease.get("host", "an unknown machine")).partition(",")
    who = f"process {lease.get('pid')} on {host}"
    started_at, renewed_at = (
        float(moment) if isinstance(moment, int | float) and 0 <= moment < _END_OF_TIME else None
        for moment in (lease.get("started_at"), lease.get("renewed_at"))  # which may be damaged
    )
    silent = max(0.0, now - renewed_at) if renewed_at is not None else None
    ago = f", last heard of {in_clock(silent)} ago" if silent is not None else ""
    if renewed_at is not None and seen.is_fresh:
        silent, off = 0.0, "ahead of" if renewed_at > now else "behind"
        ago = f", heard of just now; its clock is {in_clock(abs(now - renewed_at))} {off} this machine's"
    elif renewed_at is not None and renewed_at - now > _SKEW_SECONDS:
        ago = f", last heard of at {in_utc(renewed_at)} by its clock, which is ahead of this machine's"
    since = f" since {in_utc(started_at)}" if started_at is not None else ""
    said = f"running{since}, {who}{ago}"
    if not seen.is_alive:
        said = f"its run is gone: {who} was killed{ago}; safe: {plural(num_done, 'shard')}: run the job again to go on"
    elif not progress:
        said += "; it has not told yet how far it is"
    return DatasetStatus(
        output=root,
        state="running" if seen.is_alive else "gone",
        said=said,
        num_done=num_done,
        **({name: getattr(progress, name) for name in _AS_TOLD} if progress else {}),
        progress=progress,
        seconds_silent=silent,
        of_others=others,
    )


def _of_no_run(root: str, counts: ShardCounts, num_done: int, others: dict[str, int]) -> DatasetStatus:
    """Of a dataset that nobody writes, by its manifest; shards that are not in that are of a run that was stopped."""
    is_whole, num_samples = counts.num_done == num_done, counts.sums["num_written"]
    total, busy = counts.seconds["total"], None
    if "device" in counts.seconds and total:
        busy = min(1.0, counts.seconds["device"] / total)
    if is_whole:
        parts = [f"{num_done:,} of {plural(num_done + counts.num_failed, 'shard')}", plural(num_samples, "sample")]
        if (seconds := counts.work_seconds) > 0:
            parts.append(f"{num_samples / seconds:,.1f} samples/s in {in_clock(seconds)}")
        parts += [f"device busy {busy:.0%}"] if busy is not None else []
        said = f"finished: {', '.join(parts)}"
        if counts.num_failed:
            said += f"; {plural(counts.num_failed, 'shard')} failed: run the job again to try them once more"
    else:
        said = f"stopped before its end, with {plural(num_done, 'shard')} done: run the job again to go on"
    return DatasetStatus(
        output=root,
        state="finished" if is_whole else "stopped",
        said=said,
        num_done=num_done,
        num_shards=num_done + counts.num_failed if is_whole else None,
        num_samples=num_samples if is_whole else None,
        device_busy=busy,
        skipped=dict(counts.skipped),
        usage=dict(counts.usage),
        failures=tuple(counts.errors),
        num_failed=counts.num_failed,
        of_others=others,
    )
