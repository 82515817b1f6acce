"""Whether a job can do its work, before any shard is touched: by its first samples, and then by its loaded models.

What the models' cards do not tell is known only when they are loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from dr_pipeline.codecs import codec_for
from dr_pipeline.codecs.codec import LARGEST_BYTES
from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardTask
from dr_pipeline.errors import ConfigError, ModelError, PipelineError, SampleSkipped
from dr_pipeline.models.precision import ReadyScorer
from dr_pipeline.models.protocol import ImageScorer
from dr_pipeline.reinforce.prepare import decode_sample, read
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.storage import Storage
from dr_pipeline.words import plural

_SAMPLES = 32


@dataclass(frozen=True)
class Preflight:
    """What is wrong with the samples that were read."""

    refused: tuple[str, ...] = ()
    """Why every shard would fail."""
    warnings: tuple[str, ...] = ()
    """What would be skipped."""


def preflight(plan: Plan) -> Preflight:
    """Read the first samples of the first, the middle and the last shard that are left to do and exist.

    If none of the samples can be reinforced, the run is refused: the job is wrong, or all of the input. Otherwise what
    would be skipped is a warning.
    """
    present = [task for task in plan.todo if task.size_bytes is not None]
    chosen = dict.fromkeys([*present[:1], *present[len(present) // 2 :][:1], *present[-1:]])
    found = [_try(task, plan.job) for task in chosen]
    problems = [problem for problem, _ in found if problem]
    if found and all(are_all_bad for _, are_all_bad in found):
        return Preflight(refused=tuple(f"every shard would fail: {problem}" for problem in problems[:1]))
    return Preflight(warnings=tuple(problems))


def _try(task: ShardTask, job: Job) -> tuple[str, bool]:
    """Read, check and decode a shard's first samples as a run would → what is wrong, and whether it is with all."""
    stats, num_good = ShardStats(), 0
    try:
        with Storage(job.input.storage).open(task.uri) as stream:
            for sample in islice(read(stream, stats, job.errors.max_member_bytes), _SAMPLES):
                try:
                    decode_sample(sample, job)
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
    num_bad = len(stats.rows)
    first_ones = f"the first {plural(num_good + num_bad, 'sample')} of {task.name}"
    return f"{num_bad} of {first_ones} would be skipped: {stats.why_skipped()}", not num_good


def check_scorers(job: Job, scorers: Sequence[ReadyScorer]) -> None:
    """Raise ConfigError where a scorer reads texts that the job's samples do not have."""
    for ready in scorers:
        if not (job.has_texts or isinstance(ready.scorer, ImageScorer)):
            raise ConfigError(
                f"scorer {ready.card.name} reads texts, and with input.caption none samples have none: remove it, or "
                "name the caption"
            )


def check_teachers(job: Job, cards: Sequence[TeacherCard]) -> None:
    """Raise ModelError or ConfigError where the job cannot use a teacher, or where no reader would take its samples."""
    size = job.augmentation.size
    for card in cards:
        if card.output and not card.encodes:
            raise ModelError(
                f"teacher {card.name} encodes images and texts, but to {card.output}, which share no space: leave one "
                "of its methods out"
            )
        if not job.has_texts and card.encodes != ("images",):
            raise ConfigError(
                f"teacher {card.name} encodes texts, and with input.caption none samples have none: remove it, or name "
                "the caption"
            )
        if (card.image_size or 0) > size:
            raise ModelError(
                f"teacher {card.name} takes {card.image_size} px but views are rendered at {size} px: "
                f"set augmentation.{job.augmentation.sized_by}.size to at least {card.image_size}"
            )
    num_values = job.model_copy(update={"teachers": tuple(cards)}).num_values
    num_bytes = num_values * codec_for(job.output.precision).unpacked_bytes
    if num_bytes > LARGEST_BYTES:
        num_rows = job.augmentation.num_views + job.num_texts
        raise ConfigError(
            f"augmentation.num_views: with its captions a sample has {num_rows} embeddings of {num_values // num_rows} "
            f"dims, {num_bytes >> 20} MiB; readers take {LARGEST_BYTES >> 20} MiB: draw fewer views or captions"
        )
