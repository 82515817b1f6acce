"""What Ray starts on some machine. The worker is imported there: a driver needs neither torch nor models."""

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.report import ShardReport, ShardTask


class RemoteWorker:
    """A `reinforce.worker.Worker` that need not be imported where it is only called."""

    def __init__(self, job: Job):
        from dr_pipeline.reinforce.worker import Worker

        self._worker = Worker(job)

    def load(self) -> tuple[TeacherCard, ...]:
        """Load every model; the teachers' completed cards."""
        return self._worker.load()

    def run(self, task: ShardTask) -> ShardReport:
        """Reinforce and publish one shard."""
        return self._worker.run(task)
