"""The local runner: shards pass through one worker in this process."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.report import ShardReport, ShardTask
from dr_pipeline.reinforce.prefetch import Ahead
from dr_pipeline.reinforce.worker import Worker
from dr_pipeline.runners.pool import SHARDS_AT_ONCE
from dr_pipeline.runners.resources import announce, local_workers

_GRACE_SECONDS = 5.0


class LocalPool:
    """One worker, here. Deadlines need the Ray engine: a process cannot stop itself."""

    def __init__(self, job: Job):
        workers = local_workers(job.workers)
        announce(job.workers, workers)
        self._worker = Worker(job.model_copy(update={"workers": workers}))
        self._threads = ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shard")

    def start(self) -> tuple[TeacherCard, ...]:
        """Load the models; the teachers' completed cards."""
        return self._worker.load()

    def run(self, tasks: Sequence[ShardTask]) -> Iterator[ShardReport]:
        """Reports in the order of the tasks."""
        with Ahead(self._threads, self._worker.run, tasks, SHARDS_AT_ONCE) as reports:
            yield from reports

    def close(self) -> None:
        """Stop what is in work. A shard whose batch is on the device for longer is left to itself: it publishes nothing
        more, and nothing outlives the process.
        """
        self._worker.stop()
        closing = threading.Thread(target=self._threads.shutdown, kwargs={"cancel_futures": True}, daemon=True)
        closing.start()
        closing.join(_GRACE_SECONDS)
