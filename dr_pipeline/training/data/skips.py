"""Counts the samples that cannot be used, and stops the run where they are too many."""

from collections import Counter
from dataclasses import dataclass, field

from dr_pipeline.dataset.base_index import NOT_IN_BASE
from dr_pipeline.dataset.reports import ENOUGH_SAMPLES, are_too_many
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.words import plural


@dataclass
class _Counts:
    used: int = 0
    unmatched: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    example: str = ""

    @property
    def judged(self) -> int:
        return self.used + self.skipped.total()

    @property
    def seen(self) -> int:
        return self.judged + self.unmatched

    def add(self, other: "_Counts") -> None:
        self.used += other.used
        self.unmatched += other.unmatched
        self.skipped += other.skipped
        self.example = other.example or self.example


class SkipCounts:
    """The counts of one loading process, by shard. A shard is judged after 100 samples, and at the end of a whole one.

    Of a shard that several processes share, or that a resumed one enters in the middle, a process may see a handful of
    samples: those of such shards are judged together.
    """

    def __init__(self, max_skipped: float):
        self._max_skipped = max_skipped
        self._shards: dict[str, _Counts] = {}
        self._parts = _Counts()

    def used(self, uri: str) -> None:
        """Count a good sample of a shard."""
        self._of(uri).used += 1

    def skipped(self, uri: str, key: str, skip: SampleSkipped) -> None:
        """Count a bad sample. Raises ShardError when the shard has too many."""
        counts = self._of(uri)
        if skip.reason == NOT_IN_BASE:
            counts.unmatched += 1
            return
        counts.skipped[skip.reason] += 1
        counts.example = f"{key}: {skip}"
        if counts.judged >= ENOUGH_SAMPLES:
            self._judge(uri, counts)

    def finished(self, uri: str, num_samples: int) -> None:
        """All that is read of a shard of `num_samples` is counted. Raises ShardError when too many were bad."""
        counts = self._shards.pop(uri, _Counts())
        if counts.seen >= num_samples or counts.seen >= ENOUGH_SAMPLES:
            self._judge(uri, counts)
            return
        self._parts.add(counts)
        if self._parts.seen >= ENOUGH_SAMPLES:
            self._judge(uri, self._parts)
            self._parts = _Counts()

    def _of(self, uri: str) -> _Counts:
        return self._shards.setdefault(uri, _Counts())

    def _judge(self, uri: str, counts: _Counts) -> None:
        num_skipped = counts.skipped.total()
        if are_too_many(num_skipped, counts.judged, self._max_skipped):
            reasons = ", ".join(f"{reason} ({count})" for reason, count in counts.skipped.most_common())
            raise ShardError(
                f"{uri}: {num_skipped} of {plural(counts.judged, 'sample')} cannot be used, more than data.max_skipped "
                f"({self._max_skipped:g}) allows: {reasons}; for example {counts.example}. "
                f"To see all that is wrong: dr-pipeline verify {uri}"
            )
        if counts.unmatched and not counts.judged:
            raise ShardError(
                f"{uri}: none of {plural(counts.unmatched, 'sample')} is in data.base.shards: is that its base "
                "dataset, and "
                "data.base.match what both sides name their samples by?"
            )
