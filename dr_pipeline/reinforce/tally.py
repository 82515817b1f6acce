"""What a worker has done since it began, in counts that only grow, and how far its shards are.

A driver adds up what all workers say, those that are gone included; a difference of two sums is what was done between.
Names of counts:

    samples_read, samples_decoded, samples_written     samples_skipped.REASON
    captions_drawn, views_embedded                     requests.NAME, as in a report's `usage`
    bytes_read, bytes_written                          seconds.STAGE, waited.STAGE, as in a report
    busy_seconds                                       how long the device computed
    worker_seconds                                     how long the worker has had its models
    core_seconds                                       the same times its threads that prepare samples
    shard_seconds                                      how long its shards were in work, together
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self


class Tally(dict[str, float]):
    """Numbers by name; those that are not there are 0."""

    def __missing__(self, name: str) -> float:
        return 0.0

    def add(self, counts: Mapping[str, float]) -> None:
        """Add other counts to these."""
        for name, number in counts.items():
            self[name] += number

    def since(self, earlier: Mapping[str, float]) -> Self:
        """What has been added to earlier counts; nothing is less than 0."""
        return type(self)({name: max(0.0, number - earlier.get(name, 0.0)) for name, number in self.items()})

    def group(self, name: str) -> dict[str, float]:
        """The counts that begin with the name and a dot, by what follows: `seconds` → stage → seconds."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in self.items() if key.startswith(prefix)}


class ShardProgress(NamedTuple):
    """How far a shard in work is."""

    share: float
    """How much of it is done, from 0 to 1; 0 where its size is not known."""
    num_written: int
    """Samples."""
    skipped: dict[str, int]
    """Reason → samples."""


@dataclass(frozen=True)
class WorkerProgress:
    """How far one worker is."""

    loading: str | None = None
    """The model that is being loaded, such as `teacher clip`; None once all are."""
    loading_seconds: float = 0.0
    """How long that model has been loading, or how long all of them took."""
    counts: Tally = field(default_factory=Tally)
    shards: dict[str, ShardProgress] = field(default_factory=dict)
    """Those in work, by name."""


@dataclass(frozen=True)
class WorkersProgress:
    """How far a run's workers are, by what they have last said."""

    workers: tuple[WorkerProgress, ...] = ()
    num_pending: int = 0
    """Workers that have not begun to load: they have no place yet, or have not been asked."""
    gone: Tally = field(default_factory=Tally)
    """The counts of workers that are no more."""

    @property
    def counts(self) -> Tally:
        """The sum of all counts."""
        counts = Tally(self.gone)
        for worker in self.workers:
            counts.add(worker.counts)
        return counts
