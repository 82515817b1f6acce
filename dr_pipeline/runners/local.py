"""The local runner: a for loop in this process."""

from collections.abc import Iterator, Sequence

from dr_pipeline.config import Job, TeacherCard
from dr_pipeline.records import ShardReport, ShardTask
from dr_pipeline.reinforce.worker import Worker


class LocalPool:
    """One worker, here. Deadlines need the Ray engine: a process cannot stop itself."""

    def __init__(self, job: Job):
        self._worker = Worker(job)

    def start(self) -> tuple[TeacherCard, ...]:
        """Load the models; the teachers' completed cards."""
        return self._worker.load()

    def run(self, tasks: Sequence[ShardTask]) -> Iterator[ShardReport]:
        """Reports in the order of the tasks."""
        for task in tasks:
            yield self._worker.run(task)

    def close(self) -> None:
        """Nothing outlives the process."""
