"""A whole run: plan, claim the output, reinforce what is missing, write the books."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset import card, manifest, paths
from dr_pipeline.dataset.lease import Lease
from dr_pipeline.dataset.ledger import Ledger
from dr_pipeline.dataset.plan import Plan, make_plan
from dr_pipeline.dataset.report import ShardReport, ShardTask
from dr_pipeline.errors import PipelineError
from dr_pipeline.networks.digests import with_digests
from dr_pipeline.storage import Storage


class Runner(Protocol):
    """Has workers do shards: in this process, or on Ray."""

    def start(self) -> tuple[TeacherCard, ...]:
        """Load the models; the teachers' completed cards."""
        ...

    def run(self, tasks: tuple[ShardTask, ...]) -> Iterator[ShardReport]:
        """One report per task."""
        ...

    def close(self) -> None:
        """Let go of workers."""
        ...


class RunObserver(Protocol):
    """Is told how a run goes."""

    def planned(self, plan: Plan) -> None:
        """The run begins."""
        ...

    def reported(self, report: ShardReport) -> None:
        """A shard has ended."""
        ...


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    job: Job
    failed: tuple[ShardReport, ...]
    """This run's shards that could not be done."""
    num_samples: int
    """The whole dataset's, with those of earlier runs."""
    num_shards: int
    captions: dict[str, Counter[str]] = field(default_factory=dict)
    """This run's: captioner by its key of `syn.json` → `drawn`, and how many have each fault."""


def run(job: Job, observer: RunObserver, force: bool = False, only_failed: bool = False) -> RunResult:
    """Reinforce every shard that is not done; `only_failed`: of these, those that the last run gave up.

    Raises ConfigError before anything is written, or before models load; PipelineError when another run has taken the
    output over.
    """
    plan = make_plan(with_digests(job))
    storage, root = Storage(plan.job.output.storage), plan.job.output.path
    if only_failed:
        failed = manifest.ShardTable(storage, root).failed_before()
        plan = plan.only(failed - {task.name for task in plan.done})
    with Lease(root, storage).held() as lease:
        Ledger(plan.job).open(force)
        return execute(plan, lease, observer)


def execute(plan: Plan, lease: Lease, observer: RunObserver) -> RunResult:
    """Do what a plan leaves to do in an output that is claimed, and write its books."""
    observer.planned(plan)
    job, ledger, storage = plan.job, Ledger(plan.job), Storage(plan.job.output.storage)
    table = manifest.ShardTable(storage, job.output.path)
    without_row = table.carry_over({task.name for task in plan.done}, job.fingerprint())
    failed = []
    captions: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for report in _reinforce(plan, ledger):
        lease.check()
        table.add([report])
        observer.reported(report)
        for key, counts in report.captions.items():
            captions[key].update(counts)
        if report.status == "failed":
            failed.append(report)
            if report.stops_run or job.errors.bad_shard == "stop":
                break
    storage.sweep(job.output.path)  # what lost workers were writing
    table.add(ledger.reports(without_row))
    sums = _close_books(job, table, ledger)
    return RunResult(job, tuple(failed), sums.num_written, sums.num_shards, dict(captions))


def _reinforce(plan: Plan, ledger: Ledger) -> Iterator[ShardReport]:
    """The reports of the shards that are to do, as they end."""
    if not plan.todo and ledger.knows_teachers():
        return
    runner = make_runner(plan.job)
    try:
        ledger.record_teachers(runner.start())
        yield from runner.run(plan.todo)
    finally:
        runner.close()


def make_runner(job: Job) -> Runner:
    """The runner of `workers.engine`. Ray takes seconds to import, and is not when it is not used."""
    if job.workers.engine == "local":
        from dr_pipeline.runners.local import LocalRunner

        return LocalRunner(job)
    from dr_pipeline.runners.on_ray import RayRunner

    return RayRunner(job)


def _close_books(job: Job, table: manifest.ShardTable, ledger: Ledger) -> manifest.Sums:
    """Manifest, config.json and the card cover the whole dataset, the shards of earlier runs too: what these hold."""
    sums = table.sums()
    try:
        ledger.record_totals(sums.num_written, table.publish())
        card.publish(job, sums)
    except OSError as error:
        raise PipelineError(
            f"manifest, {paths.CONFIG} and {paths.CARD} cannot be written: {error}; {sums.num_shards} shards are safe, "
            "and the next run writes the books"
        ) from error
    return sums
