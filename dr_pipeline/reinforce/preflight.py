"""What the first samples of a few shards say of a job before any model is loaded: whether its shards can be done."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardTask
from dr_pipeline.errors import PipelineError, SampleSkipped
from dr_pipeline.reinforce.prepare import Preparer
from dr_pipeline.reinforce.reader import read
from dr_pipeline.reinforce.tally import NOT_ADJACENT_HELP, Tally, may_be_scattered
from dr_pipeline.storage import Storage

_SAMPLES = 32


@dataclass(frozen=True)
class Foresight:
    """Why the whole run would come to nothing, and what is likely to be lost of it."""

    refused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Look:
    """A shard's first samples, as a run would read, check and decode them."""

    num_samples: int
    skipped: Counter[str]
    first: str
    """The first that would be skipped, and why; or why the shard cannot be read."""

    @property
    def is_lost(self) -> bool:
        return self.skipped.total() == self.num_samples and bool(self.first)


def foresee(plan: Plan) -> Foresight:
    """Look at the first, the middle and the last shard that are there and left to do.

    Where not one of their first samples can be reinforced the run is refused: what is wrong is the job, or all of the
    input. Where some can, what would be skipped is a warning.
    """
    present = [task for task in plan.todo if task.size_bytes is not None]
    chosen = dict.fromkeys([*present[:1], *present[len(present) // 2 :][:1], *present[-1:]])
    looks = {task: _look(task, plan.job) for task in chosen}
    told = [_told(task, look) for task, look in looks.items() if look.first]
    if looks and all(look.is_lost for look in looks.values()):
        return Foresight(refused=tuple(f"every shard would fail: {line}" for line in told[:1]))
    return Foresight(warnings=tuple(told))


def _look(task: ShardTask, job: Job) -> _Look:
    preparer, tally, num_good = Preparer(job, ()), Tally(), 0
    try:
        with Storage(job.input.storage).open(task.uri) as stream:
            for raw in islice(read(stream, tally, job.errors.max_member_bytes), _SAMPLES):
                try:
                    preparer.decode(raw)
                    num_good += 1
                except SampleSkipped as skip:
                    tally.skipped(raw.key, skip, len(raw.members))
        if not num_good and not tally.rows:
            tally.check(job.errors.max_skipped)
    except (PipelineError, OSError) as error:
        return _Look(0, Counter(), str(error))
    first = next((f"{row.key}: {row.skip_reason}: {row.skip_detail}" for row in tally.rows), "")
    return _Look(num_good + len(tally.rows), Counter(str(row.skip_reason) for row in tally.rows), first)


def _told(task: ShardTask, look: _Look) -> str:
    if not look.num_samples:
        return f"{task.name} cannot be read: {look.first}"
    reasons = ", ".join(f"{reason} ({count})" for reason, count in look.skipped.most_common())
    advice = NOT_ADJACENT_HELP if may_be_scattered(look.skipped) else ""
    return (
        f"{look.skipped.total()} of the first {look.num_samples} samples of {task.name} would be skipped: {reasons}; "
        f"first {look.first}{advice}"
    )
