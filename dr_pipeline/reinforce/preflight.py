"""What the first samples of a few shards say of a job before any model is loaded: whether its shards can be done."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardTask
from dr_pipeline.errors import PipelineError, SampleSkipped
from dr_pipeline.reinforce.prepare import Preparer, read
from dr_pipeline.reinforce.stats import NOT_ADJACENT_HELP, ShardStats, may_be_scattered
from dr_pipeline.storage import Storage

_SAMPLES = 32


@dataclass(frozen=True)
class Preflight:
    """Why the whole run would come to nothing, and what is likely to be lost of it."""

    refused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def preflight(plan: Plan) -> Preflight:
    """Look at the first samples of the first, the middle and the last shard that are there and left to do.

    If none of them can be reinforced the run is refused: the job is wrong, or all of the input. If some can, what would
    be skipped is a warning.
    """
    present = [task for task in plan.todo if task.size_bytes is not None]
    chosen = dict.fromkeys([*present[:1], *present[len(present) // 2 :][:1], *present[-1:]])
    found = [_look(task, plan.job) for task in chosen]
    problems = [problem for problem, _ in found if problem]
    if found and all(is_lost for _, is_lost in found):
        return Preflight(refused=tuple(f"every shard would fail: {problem}" for problem in problems[:1]))
    return Preflight(warnings=tuple(problems))


def _look(task: ShardTask, job: Job) -> tuple[str, bool]:
    """Read, check and decode a shard's first samples as a run would → what is wrong, and whether none is good."""
    preparer, stats, num_good = Preparer(job), ShardStats(), 0
    try:
        with Storage(job.input.storage).open(task.uri) as stream:
            for sample in islice(read(stream, stats, job.errors.max_member_bytes), _SAMPLES):
                try:
                    preparer.decode(sample)
                    num_good += 1
                except SampleSkipped as skip:
                    sample.skip = skip
                    stats.skipped(sample)
        if not num_good and not stats.rows:
            stats.check(job.errors.max_skipped)
    except (PipelineError, OSError) as error:
        return f"{task.name} cannot be read: {error}", True
    if not stats.rows:
        return "", False
    skipped = Counter(str(row.skip_reason) for row in stats.rows)
    first = stats.rows[0]
    reasons = ", ".join(f"{reason} ({count})" for reason, count in skipped.most_common())
    problem = (
        f"{len(stats.rows)} of the first {num_good + len(stats.rows)} samples of {task.name} would be skipped: "
        f"{reasons}; first {first.key}: {first.skip_reason}: {first.skip_detail}"
        + (NOT_ADJACENT_HELP if may_be_scattered(skipped) else "")
    )
    return problem, not num_good
