"""The endless samples of one loading process, ready to be stacked: what can be used of its share, epoch by epoch."""

from collections import Counter
from collections.abc import Iterator

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.training.data.order import LoaderId
from dr_pipeline.training.data.reader import Position, SampleReader
from dr_pipeline.training.data.selection import Prepare, Selector
from dr_pipeline.training.data.skips import SkipCounts
from dr_pipeline.training.data.training_set import TrainingSet
from dr_pipeline.views.recipe import WINDOW


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
