"""A run: plan its shards, claim the output, reinforce what is not done, write manifest, config.json and card.

Once a second it asks how far the workers are, for a display, and for what the lease's record tells.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset import dataset_card, manifest, paths
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.dataset.plan import Plan, make_plan
from dr_pipeline.dataset.reports import Reports, ShardReport, ShardTask
from dr_pipeline.errors import PipelineError
from dr_pipeline.networks.digests import with_digests
from dr_pipeline.reinforce.tally import WorkersProgress
from dr_pipeline.report.recorder import Recorder
from dr_pipeline.report.snapshot import Snapshot
from dr_pipeline.storage import Lease, Storage
from dr_pipeline.words import plural

_EVERY_SECONDS, _TIMES_A_LOOK = 1.0, 30.0
"""The pause between two looks; the adding up of 10,000 workers takes half a second, and may take no larger part."""


class Runner(Protocol):
    """Runs shards: in this process, or on Ray."""

    def start(self) -> tuple[TeacherCard, ...]:
        """Load the models. Gives the teachers' completed cards."""
        ...

    def run(self, tasks: tuple[ShardTask, ...]) -> Iterator[ShardReport]:
        """A report for each task, as it ends."""
        ...

    def progress(self) -> WorkersProgress:
        """How far the workers are, by what they have last said; any thread may ask at any time, and never waits."""
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


class RunObserver(Protocol):
    """Receives the events of a run, one at a time; a display is one."""

    def planned(self, plan: Plan) -> None:
        """Called once, before the models load."""
        ...

    def progressed(self, snapshot: Snapshot) -> None:
        """Called once a second, from a thread of its own."""
        ...

    def reported(self, report: ShardReport) -> None:
        """Called for each shard that has ended, done or failed."""
        ...


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    job: Job
    failed: tuple[ShardReport, ...]
    """The shards of this run that failed."""
    num_samples: int
    """Of the whole dataset, earlier runs included."""
    num_shards: int
    captions: dict[str, Counter[str]] = field(default_factory=dict)
    """Of this run: a captioner's key in `syn.json` → `drawn`, and the number of captions with each fault."""
    usage: dict[str, Counter[str]] = field(default_factory=dict)
    """Of this run, its failed shards too: a captioner's key → what its requests took, as in the reports."""


def run(job: Job, observer: RunObserver | None = None, force: bool = False, only_failed: bool = False) -> RunResult:
    """Reinforce every shard that is not done; with `only_failed`, only those of them that failed in the last run.

    Raises ConfigError before anything is written, or before models load; PipelineError when another run has taken the
    output over.
    """
    plan = make_plan(with_digests(job))
    storage, root = Storage(plan.job.output.storage), plan.job.output.path
    if only_failed:
        failed = manifest.ShardTable(storage, root).failed_before()
        plan = plan.only(failed - {task.name for task in plan.done})
    with Lease(root, paths.RUN, storage).held() as lease:
        ConfigJson(plan.job).claim(force)
        return execute(plan, lease, observer)


def execute(plan: Plan, lease: Lease, observer: RunObserver | None) -> RunResult:
    """Reinforce a plan's shards in an output that is claimed, and write its manifest, config.json and card."""
    watch = Watch(plan, lease, observer)
    job, storage = plan.job, Storage(plan.job.output.storage)
    table = manifest.ShardTable(storage, job.output.path)
    without_row = table.carry_over({task.name for task in plan.done}, job.fingerprint())
    failed = []
    captions: defaultdict[str, Counter[str]] = defaultdict(Counter)
    usage: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for report in _reinforce(plan, watch):
        lease.check()
        table.add([report])
        watch.reported(report)
        for key, counts in report.captions.items():
            captions[key].update(counts)
        for key, used in report.usage.items():
            usage[key].update(used)
        if report.status == "failed":
            failed.append(report)
            if report.stops_run or job.errors.bad_shard == "stop":
                break
    lease.sweep()
    table.add(Reports.of(job).read(without_row))
    totals = _describe_dataset(job, table)
    return RunResult(job, tuple(failed), totals.num_written, totals.num_shards, dict(captions), dict(usage))


def _reinforce(plan: Plan, watch: "Watch") -> Iterator[ShardReport]:
    """The reports of the plan's shards, as they end."""
    config = ConfigJson(plan.job)
    if not plan.todo and config.has_teachers():
        return
    runner = make_runner(plan.job)
    try:
        with watch.of(runner.progress):
            config.write_teachers(runner.start())
            yield from runner.run(plan.todo)
    finally:
        runner.close()


def make_runner(job: Job) -> Runner:
    """The runner that `workers.engine` names. Ray takes seconds to import: only its own runner does."""
    if job.workers.engine == "local":
        from dr_pipeline.runners.local import LocalRunner

        return LocalRunner(job)
    from dr_pipeline.runners.on_ray import RayRunner

    return RayRunner(job)


def _describe_dataset(job: Job, table: manifest.ShardTable) -> manifest.Totals:
    """Write manifest, config.json and card. Gives the totals of the whole dataset, shards of earlier runs included."""
    totals = table.totals()
    try:
        ConfigJson(job).write_totals(totals.num_written, table.publish())
        dataset_card.publish(job, totals)
    except OSError as error:
        raise PipelineError(
            f"manifest, {paths.CONFIG} and {paths.CARD} cannot be written: {error}; "
            f"safe: {plural(totals.num_shards, 'shard')}: "
            "the next run writes these files"
        ) from error
    return totals


class Watch:
    """Tells an observer, and whoever reads the lease's record, how far a run is."""

    def __init__(self, plan: Plan, lease: Lease, observer: RunObserver | None):
        self._recorder = Recorder(plan)
        self._lease, self._observer = lease, observer
        self._lock = threading.Lock()
        self._looking: Future[None] = Future()
        if observer:
            observer.planned(plan)

    @contextmanager
    def of(self, ask: Callable[[], WorkersProgress]) -> Iterator[None]:
        """Watch workers for the block; `ask` gives what they have last said, and never waits."""
        ended = threading.Event()

        def look_on() -> None:
            took_seconds = 0.0
            while not ended.wait(max(_EVERY_SECONDS, _TIMES_A_LOOK * took_seconds)):
                began = time.perf_counter()
                self._look(ask)
                took_seconds = time.perf_counter() - began

        with ThreadPoolExecutor(1, thread_name_prefix="watch") as thread:
            self._looking = thread.submit(look_on)
            try:
                yield
            finally:
                ended.set()
        self._looking.result()
        self._look(ask)

    def reported(self, report: ShardReport) -> None:
        """Count a shard that has ended. Raises what the observer has raised."""
        with self._lock:
            if self._looking.done():
                self._looking.result()
            self._recorder.add(report)
            if self._observer:
                self._observer.reported(report)

    def _look(self, ask: Callable[[], WorkersProgress]) -> None:
        with self._lock:
            snapshot = self._recorder.take(ask())
            self._lease.note(snapshot.to_tree())
            if self._observer:
                self._observer.progressed(snapshot)
