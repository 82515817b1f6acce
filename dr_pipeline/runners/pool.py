"""What a runner is."""

from collections.abc import Iterator
from typing import Protocol

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.dataset.report import ShardReport, ShardTask

SHARDS_AT_ONCE = 2
"""How many shards a runner gives a worker at once: while one has the device, the next is read and the last uploaded."""


class Pool(Protocol):
    """What a runner is: it starts, turns tasks into reports, and closes."""

    def start(self) -> tuple[TeacherCard, ...]:
        """Load the models; the teachers' completed cards."""
        ...

    def run(self, tasks: tuple[ShardTask, ...]) -> Iterator[ShardReport]:
        """One report per task."""
        ...

    def close(self) -> None:
        """Let go of workers."""
        ...
