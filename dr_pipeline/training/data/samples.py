"""The endless samples of one loading process, ready to be stacked: what can be used of its share, epoch by epoch.

What cannot be used is counted, and stops the run where it is too much.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.base_index import NOT_IN_BASE
from dr_pipeline.dataset.reports import ENOUGH_SAMPLES, are_too_many
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.training.data.reader import LoaderId, Position, SampleReader
from dr_pipeline.training.data.selection import Prepare, Selector
from dr_pipeline.training.data.training_set import TrainingSet
from dr_pipeline.views.recipe import WINDOW
from dr_pipeline.words import plural


class SelectedSamples:
    """The samples of one loading process, and the counts of what was passed over between them."""

    def __init__(self, job: TrainJob, training_set: TrainingSet, prepare: Prepare, loader: LoaderId):
        self._skips = SkipCounts(job.data.max_skipped)
        num_earlier = WINDOW if training_set.recipe.mixings else 0
        self._reader = SampleReader(job, training_set.uris, loader, self._skips.finished, num_earlier)
        self._selector = Selector(job, training_set, prepare)
        self._loader = loader
        self._skipped: Counter[str] = Counter()

    def read(self, position: Position) -> Iterator[tuple[Sample, Position]]:
        """The samples from a position on without end, each with the position behind it. Raises ShardError."""
        while True:
            num_used = 0
            for item in self.epoch(position):
                num_used += 1
                yield item
            if position == Position(position.epoch) and not num_used:
                reasons = ", ".join(f"{reason} ({count})" for reason, count in self._skipped.items())
                if reasons:
                    raise ShardError(f"data.shards: a whole epoch has no usable sample: {reasons}")
                raise ShardError(
                    f"data.shards: loader {self._loader.index} of {self._loader.count} (ranks × data.workers) has no "
                    "sample in a whole epoch: set fewer data.workers"
                )
            position = Position(position.epoch + 1)

    def epoch(self, position: Position) -> Iterator[tuple[Sample, Position]]:
        """The samples from a position to the end of its epoch. Raises ShardError."""
        for uri, sample, behind in self._reader.epoch(position):
            try:
                self._selector.select(uri, sample, position.epoch)
            except SampleSkipped as skip:
                self._skipped[skip.reason] += 1
                self._skips.skipped(uri, sample.key, skip)
            else:
                self._skips.used(uri)
                yield sample, behind

    def take_skipped(self) -> dict[str, int]:
        """Reason → samples passed over since the last call."""
        taken = dict(self._skipped)
        self._skipped.clear()
        return taken


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


class SkipCounts:
    """The counts of one loading process, by shard. A shard is judged after 100 samples, and at the end of a whole one.

    Of a shard that several processes share, or that a resumed one enters in the middle, a process may see a handful of
    samples: those of such shards are judged together.
    """

    def __init__(self, max_skipped: float):
        self._max_skipped = max_skipped
        self._shards = defaultdict[str, _Counts](_Counts)
        self._parts = _Counts()

    def used(self, uri: str) -> None:
        """Count a good sample of a shard."""
        self._shards[uri].used += 1

    def skipped(self, uri: str, key: str, skip: SampleSkipped) -> None:
        """Count a bad sample. Raises ShardError when the shard has too many."""
        counts = self._shards[uri]
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
        parts = self._parts
        parts.used += counts.used
        parts.unmatched += counts.unmatched
        parts.skipped += counts.skipped
        parts.example = counts.example or parts.example
        if parts.seen >= ENOUGH_SAMPLES:
            self._judge(uri, parts)
            self._parts = _Counts()

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
                "dataset, and data.base.match what both sides name their samples by?"
            )
