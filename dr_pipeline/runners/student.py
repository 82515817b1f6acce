"""Train a student by a job, with the teachers in memory that it asks for."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dr_pipeline.config.training import TrainJob
from dr_pipeline.training.train import TrainCallback, TrainResult
from dr_pipeline.training.train import train as train_with

if TYPE_CHECKING:
    import torch

    from dr_pipeline.training.online import OnlineTeachers


def train(job: TrainJob, callback: TrainCallback | None = None) -> TrainResult | None:
    """Train a student from the newest checkpoint of its run, or from the start, to the end; publish the model.

    Gives None on every rank but the leading one. Raises ConfigError before anything is written; ShardError and
    PipelineError in mid-run, with the last checkpoint kept.
    """
    return train_with(job, callback, online_teachers(job))


def online_teachers(job: TrainJob) -> "Callable[[torch.device], OnlineTeachers] | None":
    """How to load the teachers that embed every batch; None where the stored embeddings are used."""
    if not job.distillation.online_teachers:
        return None
    from dr_pipeline.models.precision import load_ensemble

    cards = {card.name: card for card in job.distillation.online_teachers}
    names = job.distillation.scales_of(job.distillation.online_teachers)

    def load_teachers(device: "torch.device") -> "OnlineTeachers":
        return load_ensemble([cards[name] for name in names], device, job.run.precision, job.plugin_dirs)[0]

    return load_teachers
