"""The local runner: shards pass through one worker in this process."""

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.reports import ShardReport, ShardTask
from dr_pipeline.reinforce.tally import WorkersProgress
from dr_pipeline.reinforce.threads import Prefetch
from dr_pipeline.reinforce.worker import Worker
from dr_pipeline.runners.resources import SHARDS_AT_ONCE, local_workers

log = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0


class LocalRunner:
    """One worker in this process. It keeps no `errors.shard_deadline_s`: a process cannot stop itself."""

    def __init__(self, job: Job):
        declared, workers = job.workers, local_workers(job.workers)
        if declared.cpus is not None and declared.cpus != workers.cpus:
            log.warning(
                "workers.cpus=%s, but this process may use %s cores: so many threads", declared.cpus, workers.cpus
            )
        self._worker = Worker(job.model_copy(update={"workers": workers}))
        self._threads = ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shard")

    def start(self) -> tuple[TeacherCard, ...]:
        """Load the models. Gives the teachers' completed cards."""
        return self._worker.load()

    def run(self, tasks: Sequence[ShardTask]) -> Iterator[ShardReport]:
        """Reports in the order of the tasks."""
        with Prefetch(self._threads, self._worker.run, tasks, SHARDS_AT_ONCE) as reports:
            yield from reports

    def progress(self) -> WorkersProgress:
        """How far the worker is."""
        return WorkersProgress((self._worker.progress(),))

    def close(self) -> None:
        """Stop the shards in work. One whose batch is on the device after 5 s is left behind: it publishes nothing
        more, and its thread ends with the process.
        """
        self._worker.stop()
        closing = threading.Thread(target=self._threads.shutdown, kwargs={"cancel_futures": True}, daemon=True)
        closing.start()
        closing.join(_GRACE_SECONDS)
