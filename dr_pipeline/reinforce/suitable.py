"""Whether loaded models suit a job: what their cards do not tell is known only now, before any shard is touched."""

from collections.abc import Sequence

from dr_pipeline.codecs import codec_for
from dr_pipeline.codecs.codec import LARGEST_BYTES
from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.precision import ReadyScorer
from dr_pipeline.models.protocol import ImageScorer


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
