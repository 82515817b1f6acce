"""The actor that a run on Ray consists of."""

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.reports import ShardReport, ShardTask
from dr_pipeline.reinforce.tally import WorkerProgress
from dr_pipeline.report.log import show_log
from dr_pipeline.runners.metrics import WorkerMetrics

ASIDE = "aside"
"""The concurrency group of calls that do not wait for shards."""


class RemoteWorker:
    """A worker on some machine. It is imported there: a driver needs neither torch nor models."""

    def __init__(self, job: Job, log_level: int):
        """`log_level`: the driver's; what this worker logs is printed there."""
        show_log(log_level)
        from dr_pipeline.reinforce.worker import Worker

        self._worker = Worker(job)
        WorkerMetrics(job.name, self._worker.progress)

    def load(self) -> tuple[TeacherCard, ...]:
        """Load every model. Gives the teachers' completed cards."""
        return self._worker.load()

    def run(self, task: ShardTask) -> ShardReport:
        """Reinforce and publish one shard."""
        return self._worker.run(task)

    def progress(self) -> WorkerProgress:
        """How far the worker is, whatever its other calls do."""
        return self._worker.progress()
