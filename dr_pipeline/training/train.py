"""Train a student: read a batch, embed it, compare it with what the teachers said, take a step (section 2.1).

The teachers are not in memory, unless distillation is online: the stored embeddings say what each teacher saw in the
very view that the student sees.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from dr_pipeline.config.evaluation import Engine
from dr_pipeline.config.training import TrainJob
from dr_pipeline.evaluation.evaluate import TaskResult, check_tasks, run_tasks
from dr_pipeline.networks.classifier import TIMM, Classifier
from dr_pipeline.networks.device import pick_device
from dr_pipeline.networks.digests import card_with_digests, find_digests
from dr_pipeline.networks.network import Network
from dr_pipeline.training.checkpoint import RunFolder
from dr_pipeline.training.data.training_set import TrainingSet, open_training_set
from dr_pipeline.training.distributed import joined_ranks
from dr_pipeline.training.metrics import MetricsLog, StepMetrics, draw_curves
from dr_pipeline.training.network import export
from dr_pipeline.training.online import OnlineTeachers
from dr_pipeline.training.record import record_start
from dr_pipeline.training.trainer import Trainer


class TrainCallback(Protocol):
    """What is called while a run goes on, on the leading rank, such as a display."""

    def started(self, job: TrainJob, training_set: TrainingSet, network: Network | Classifier, step: int) -> None:
        """Everything is loaded; `step` steps were taken before."""

    def stepped(self, metrics: StepMetrics) -> None:
        """A step was taken. The next one may be under way already."""

    def evaluated(self, step: int, figures: dict[str, float]) -> None:
        """The student was evaluated after a step."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves."""

    model: Path
    """A folder that open_clip's `create_model_and_transforms("local-dir:FOLDER")` loads, or timm's `create_model`."""
    curves: Path | None
    """None without Matplotlib."""
    results: list[TaskResult]
    """The evaluation at the end; empty where the job has none, or an earlier process did it."""


def train(
    job: TrainJob, callback: TrainCallback | None, load_teachers: Callable[[torch.device], OnlineTeachers] | None = None
) -> TrainResult | None:
    """Train from the newest checkpoint, or from the start, to the end; publish the model.

    Gives None on every rank but the leading one, which alone writes files and calls `callback`. `load_teachers` is
    given for online distillation. Raises ConfigError before anything is written; ShardError and PipelineError in
    mid-run, with the last checkpoint kept.
    """
    with joined_ranks() as rank, ExitStack() as files:
        folder = RunFolder(job)
        training_set = open_training_set(job)
        check_tasks(job.evaluation, job.student.num_classes)  # better missed now than after the last step
        trainer = Trainer(job, training_set, rank, load_teachers(pick_device()) if load_teachers else None)
        checkpoint = folder.newest()
        if rank.leads:
            folder.claim(digests_of(job, training_set))
        trainer.restore(checkpoint)
        if rank.leads:
            record_start(job, training_set, trainer.network, trainer.step, rank.world_size)
            if callback:
                callback.started(job, training_set, trainer.network, trainer.step)
            log = files.enter_context(closing(MetricsLog(folder.path, trainer.step)))
        results: list[TaskResult] = []
        for metrics in trainer.steps(
            lambda step: _evaluates(job, step) or _is_due(job, step, job.run.checkpoint_every)
        ):
            if rank.leads:
                if callback:
                    callback.stepped(metrics)
                if _is_due(job, metrics.step, job.run.log_every):
                    log.step(metrics)
                if _evaluates(job, metrics.step):  # the other ranks wait in their next step
                    results = _evaluate(job, trainer, metrics, log, callback)
            if _is_due(job, metrics.step, job.run.checkpoint_every):
                checkpoint = trainer.checkpoint()
                if rank.leads:
                    folder.save(checkpoint)
        if not rank.leads:
            return None
        model = folder.path / "model"
        export(trainer.network, trainer.result.state_dict(), training_set.recipe.interpolation, model)
        return TrainResult(model, draw_curves(folder.path), results)


def _is_due(job: TrainJob, step: int, every: int | None) -> bool:
    """Whether what is done every so many steps, and behind the last, is done behind this one."""
    return step == job.schedule.last_step or (every is not None and step % every == 0)


def _evaluates(job: TrainJob, step: int) -> bool:
    return job.evaluation.any and _is_due(job, step, job.evaluation.every)


def _evaluate(
    job: TrainJob, trainer: Trainer, metrics: StepMetrics, log: MetricsLog, callback: TrainCallback | None
) -> list[TaskResult]:
    """Evaluate the student behind a step, and tell of it."""
    network = replace(trainer.network, module=trainer.result)
    results = run_tasks(network, job.evaluation, Engine(precision=job.run.precision))
    figures = {f"{one.task} {name}": value for one in results for name, value in one.figures.items()}
    log.evaluation(metrics.step, metrics.samples, figures)
    if callback:
        callback.evaluated(metrics.step, figures)
    return results


def digests_of(job: TrainJob, training_set: TrainingSet) -> dict[str, str]:
    """What a run trains on: digests of the data, of the student's files, and of the teachers in memory."""
    model = job.student.architecture.removeprefix(TIMM)
    student = {"model": model, "weights": job.student.weights, "tokenizer": job.student.tokenizer}
    found = {"data": training_set.digest, **find_digests(student, job.plugin_dirs, "student")}
    for card in job.distillation.online_teachers:
        digests = card_with_digests(card, job.plugin_dirs).digests
        found |= {f"{card.name}.{name}": digest for name, digest in digests.items()}
    return found
