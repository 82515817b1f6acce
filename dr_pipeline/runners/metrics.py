"""A run's counts as metrics of Ray, which a Prometheus server scrapes from the nodes; docs/watching.md lists them.

Ray puts `ray_` before each name. The tag `job_name` is the job's; a series is a worker's, and the driver's own.
"""

import threading
from collections.abc import Callable

from ray.util.metrics import Counter, Gauge

from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.reinforce.tally import Tally, WorkerProgress, WorkersProgress

_EVERY_SECONDS = 5.0
_JOB = "job_name"

COUNTERS = {
    "samples_read": ("dr_pipeline_samples_read_total", "Samples read from shards of the input"),
    "samples_decoded": ("dr_pipeline_samples_decoded_total", "Samples decoded, with their views drawn"),
    "samples_written": ("dr_pipeline_samples_written_total", "Samples written to shards, also to those in work"),
    "captions_drawn": ("dr_pipeline_captions_total", "Captions drawn"),
    "views_embedded": ("dr_pipeline_views_total", "Views embedded by all teachers"),
    "bytes_read": ("dr_pipeline_read_bytes_total", "Bytes read of shards of the input"),
    "bytes_written": ("dr_pipeline_written_bytes_total", "Bytes of the members written to shards"),
    "busy_seconds": ("dr_pipeline_device_busy_seconds_total", "Seconds in which the worker's device computed"),
    "worker_seconds": ("dr_pipeline_worker_seconds_total", "Seconds for which the worker has had its models"),
    "shard_seconds": ("dr_pipeline_shard_seconds_total", "Seconds for which shards were in work, together"),
    "requests.requests": ("dr_pipeline_requests_total", "Requests to endpoints"),
    "requests.retries": ("dr_pipeline_request_retries_total", "Requests that repeated an earlier one"),
    "requests.failures": ("dr_pipeline_request_failures_total", "Requests that failed for good"),
    "requests.prompt_tokens": ("dr_pipeline_prompt_tokens_total", "Tokens sent to endpoints"),
    "requests.completion_tokens": ("dr_pipeline_completion_tokens_total", "Tokens written by endpoints"),
    "requests.cost": ("dr_pipeline_request_cost_total", "Cost of the requests, in the unit of the cards' prices"),
}
"""Name in a tally → metric of a worker, and what it counts."""
GROUPS = {
    "samples_skipped": ("dr_pipeline_samples_skipped_total", "reason", "Samples skipped"),
    "seconds": ("dr_pipeline_stage_seconds_total", "stage", "Seconds of work of a stage, of all its threads"),
    "waited": ("dr_pipeline_waited_seconds_total", "stage", "Seconds for which a stage waited for another"),
}
"""Group in a tally → metric of a worker, the tag that tells its counts apart, and what it counts."""


class WorkerMetrics:
    """Exports what a worker counts, every few seconds."""

    def __init__(self, job_name: str, ask: Callable[[], WorkerProgress]):
        self._tags, self._ask = {_JOB: job_name}, ask
        self._exported = Tally()
        self._counters = {name: Counter(metric, said, (_JOB,)) for name, (metric, said) in COUNTERS.items()}
        self._groups = {name: (Counter(metric, said, (_JOB, tag)), tag) for name, (metric, tag, said) in GROUPS.items()}
        threading.Thread(target=self._export, name="metrics", daemon=True).start()

    def _export(self) -> None:
        pause = threading.Event()
        while not pause.wait(_EVERY_SECONDS):
            counts = self._ask().counts
            added = counts.since(self._exported)
            for name, counter in self._counters.items():
                if added[name]:
                    counter.inc(added[name], self._tags)
            for name, (counter, tag) in self._groups.items():
                for value, number in added.group(name).items():
                    if number:
                        counter.inc(number, {**self._tags, tag: value})
            self._exported.add(added)


class DriverMetrics:
    """Exports what the driver knows: shards and workers."""

    def __init__(self, job_name: str):
        self._tags = {_JOB: job_name}
        self._ended = {
            "done": Counter("dr_pipeline_shards_done_total", "Shards done by this run", (_JOB,)),
            "failed": Counter("dr_pipeline_shards_failed_total", "Shards that failed in this run", (_JOB,)),
        }
        self._left = Gauge("dr_pipeline_shards_left", "Shards of this run that have not ended", (_JOB,))
        self._workers = Gauge("dr_pipeline_workers", "Workers that are working, loading or not begun", (_JOB, "state"))
        self._num_left = 0

    def begin(self, num_shards: int) -> None:
        """Tell how many shards there are to do."""
        self._num_left = num_shards
        self._left.set(num_shards, self._tags)

    def count(self, report: ShardReport) -> None:
        """Count a shard that has ended."""
        self._num_left -= 1
        self._ended[report.status].inc(1, self._tags)
        self._left.set(self._num_left, self._tags)

    def watch(self, progress: WorkersProgress) -> None:
        """Tell what the workers do."""
        num_loading = sum(worker.loading is not None for worker in progress.workers)
        states = {"working": len(progress.workers) - num_loading, "loading": num_loading}
        for state, number in {**states, "not begun": progress.num_pending}.items():
            self._workers.set(number, {**self._tags, "state": state})
