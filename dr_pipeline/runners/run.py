"""A whole run: plan, claim the output, reinforce what is missing, write the books."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from dr_pipeline.config import Job, TeacherCard
from dr_pipeline.records import ShardReport, ShardTask
from dr_pipeline.shards import manifest
from dr_pipeline.shards.ledger import Ledger
from dr_pipeline.shards.plan import Plan, make_plan
from dr_pipeline.shards.storage import Storage


class Pool(Protocol):
    """What a runner is: it starts, turns tasks into reports, and closes."""

    def start(self) -> tuple[TeacherCard, ...]:
        """Load the models; the teachers' completed cards."""
        ...

    def run(self, tasks: tuple[ShardTask, ...]) -> Iterator[ShardReport]:
        """One report per task."""
        ...

    def close(self) -> None:
        """Let go of workers."""
        ...


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
    """How a run ended: the reports of this run, and the whole dataset's samples."""

    job: Job
    reports: tuple[ShardReport, ...]
    num_samples: int
    num_shards: int

    @property
    def failed(self) -> tuple[ShardReport, ...]:
        """The shards that could not be done."""
        return tuple(report for report in self.reports if report.status == "failed")


def run(job: Job, observer: Observer, force: bool = False) -> Outcome:
    """Reinforce every shard that is not done. Raises ConfigError before anything is written, or before models load."""
    plan = make_plan(job)
    ledger = Ledger(plan.job)
    ledger.open(force)
    observer.planned(plan)
    reports: list[ShardReport] = []
    for report in _reinforce(plan, ledger):
        reports.append(report)
        observer.reported(report)
        if report.status == "failed" and job.errors.bad_shard == "stop":
            break
    return _close_books(plan, ledger, reports)


def _reinforce(plan: Plan, ledger: Ledger) -> Iterator[ShardReport]:
    if not plan.todo:
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


def _close_books(plan: Plan, ledger: Ledger, reports: list[ShardReport]) -> Outcome:
    """Manifest and config.json cover the whole dataset, the shards of earlier runs too."""
    earlier = list(ledger.reports(task.name for task in plan.done))
    output = plan.job.output
    manifest.write_shards(Storage(output.storage), output.path, [*earlier, *reports])
    done = [report for report in [*earlier, *reports] if report.status == "done"]
    num_samples = sum(report.num_written for report in done)
    ledger.record_num_samples(num_samples)
    return Outcome(plan.job, tuple(reports), num_samples, len(done))
