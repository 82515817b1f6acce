"""A whole run: plan, claim the output, reinforce what is missing, write the books."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from dr_pipeline.config.job import Job
from dr_pipeline.dataset import card, manifest, paths
from dr_pipeline.dataset.lease import Lease
from dr_pipeline.dataset.ledger import Ledger
from dr_pipeline.dataset.plan import Plan, make_plan
from dr_pipeline.dataset.report import ShardReport
from dr_pipeline.errors import PipelineError
from dr_pipeline.networks.digests import with_digests
from dr_pipeline.runners.pool import Pool
from dr_pipeline.storage import Storage


class Observer(Protocol):
    """Is told how a run goes."""

    def planned(self, plan: Plan) -> None:
        """The run begins."""
        ...

    def reported(self, report: ShardReport) -> None:
        """A shard has ended."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    job: Job
    failed: tuple[ShardReport, ...]
    """This run's shards that could not be done."""
    num_samples: int
    """The whole dataset's, with those of earlier runs."""
    num_shards: int
    captions: dict[str, Counter[str]] = field(default_factory=dict)
    """This run's: captioner by its key of `syn.json` → `drawn`, and how many have each fault."""


def run(job: Job, observer: Observer, force: bool = False, only_failed: bool = False) -> Outcome:
    """Reinforce every shard that is not done; `only_failed`: of these, those that the last run gave up.

    Raises ConfigError before anything is written, or before models load; PipelineError when another run has taken the
    output over.
    """
    plan = make_plan(with_digests(job))
    storage, root = Storage(plan.job.output.storage), plan.job.output.path
    if only_failed:
        plan = plan.only(manifest.ShardTable(storage, root).failed_before())
    with Lease(root, storage).held() as lease:
        Ledger(plan.job).open(force)
        return carry_out(plan, lease, observer)


def carry_out(plan: Plan, lease: Lease, observer: Observer) -> Outcome:
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
    return Outcome(job, tuple(failed), sums.num_written, sums.num_shards, dict(captions))


def _reinforce(plan: Plan, ledger: Ledger) -> Iterator[ShardReport]:
    if not plan.todo and ledger.knows_teachers():
        return
    pool = _pool(plan.job)
    try:
        ledger.record_teachers(pool.start())
        yield from pool.run(plan.todo)
    finally:
        pool.close()


def _pool(job: Job) -> Pool:
    makers: dict[str, Callable[[Job], Pool]] = {"local": _local_pool, "ray": _ray_pool}
    return makers[job.workers.engine](job)


def _local_pool(job: Job) -> Pool:
    from dr_pipeline.runners.local import LocalPool

    return LocalPool(job)


def _ray_pool(job: Job) -> Pool:
    from dr_pipeline.runners.on_ray import RayPool

    return RayPool(job)


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
