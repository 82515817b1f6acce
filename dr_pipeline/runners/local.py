"""The local runner: shards pass through one worker in this process."""

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.report import ShardReport, ShardTask
from dr_pipeline.reinforce.prefetch import Ahead
from dr_pipeline.reinforce.worker import Worker
from dr_pipeline.runners.resources import SHARDS_AT_ONCE, local_workers

log = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0


class LocalRunner:
    """One worker, here. Deadlines need Ray: a process cannot stop itself."""

    def __init__(self, job: Job):
        declared, workers = job.workers, local_workers(job.workers)
        if declared.cpus is not None and declared.cpus != workers.cpus:
            log.warning(
                "workers.cpus=%s, but this process may use %s cores: so many threads", declared.cpus, workers.cpus
            )
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
