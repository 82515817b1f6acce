"""Train a student: read a batch, embed it, compare it with what the teachers said, take a step (section 2.1).

No teacher is in memory, unless distillation is online: the stored embeddings say what each teacher saw in the very view
that the student sees.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from dr_pipeline.config.evaluation import Engine
from dr_pipeline.config.training import TrainJob
from dr_pipeline.evaluation.evaluate import TaskResult, check_tasks, run_tasks
from dr_pipeline.networks.device import pick_device
from dr_pipeline.networks.digests import card_with_digests, find_digests
from dr_pipeline.networks.network import Network
from dr_pipeline.train.checkpoint import Checkpoint, RunFolder
from dr_pipeline.train.data.dataset import Dataset, open_dataset
from dr_pipeline.train.distributed import joined_ranks
from dr_pipeline.train.feed import OnlineTeachers
from dr_pipeline.train.journal import Journal, StepRecord, draw_curves
from dr_pipeline.train.network import export
from dr_pipeline.train.trainer import Trainer


class Observer(Protocol):
    """Whoever shows a run to its user."""

    def started(self, job: TrainJob, dataset: Dataset, network: Network, step: int) -> None:
        """Everything is loaded, and `step` steps are behind."""

    def stepped(self, record: StepRecord) -> None:
        """A step was taken."""

    def evaluated(self, step: int, figures: dict[str, float]) -> None:
        """An evaluation ended."""


@dataclass(frozen=True)
class Outcome:
    """What a finished run left."""

    model: Path
    """A folder that `open_clip.create_model_and_transforms("local-dir:FOLDER")` loads."""
    curves: Path
    results: list[TaskResult]
    """The evaluation at the end; empty where the job has none, or an earlier process did it."""


def train(
    job: TrainJob, observer: Observer, load_teachers: Callable[[torch.device], OnlineTeachers] | None = None
) -> Outcome | None:
    """Train from the newest checkpoint, or from the start, to the end; publish the model. None on all ranks but one.

    `load_teachers` is given for online distillation. Raises ConfigError before anything is written; ShardError and
    PipelineError in mid-run, with the last checkpoint kept.
    """
    with joined_ranks() as rank:
        folder = RunFolder(job)
        dataset = open_dataset(job)
        check_tasks(job.evaluation)  # better missed now than after the last step
        trainer = Trainer(job, dataset, rank, load_teachers(pick_device()) if load_teachers else None)
        checkpoint = folder.newest()
        if rank.leads:
            folder.claim(digests_of(job, dataset))
        trainer.restore(checkpoint)
        if rank.leads:
            observer.started(job, dataset, trainer.network, trainer.step)
        with Scribe(job, dataset, folder, observer, trainer) if rank.leads else Bystander() as scribe:
            for _ in range(trainer.step, job.schedule.steps):
                record = trainer.take_step()
                scribe.stepped(record)
                if job.evaluation.any and _due(record.step, job.evaluation.every, job.schedule.steps):
                    scribe.evaluate(record)
                if _due(record.step, job.run.checkpoint_every, job.schedule.steps):
                    scribe.save(trainer.checkpoint())
            return scribe.finish()


def digests_of(job: TrainJob, dataset: Dataset) -> dict[str, str]:
    """What a run trains on: the dataset's digest, those of the student's files and of teachers that see every batch."""
    student = {"model": job.student.architecture, "weights": job.student.weights, "tokenizer": job.student.tokenizer}
    found = {"data": dataset.digest, **find_digests(student, job.plugin_dirs, "student")}
    for card in job.distillation.online_teachers:
        digests = card_with_digests(card, job.plugin_dirs).digests
        found |= {f"{card.name}.{name}": digest for name, digest in digests.items()}
    return found


def _due(step: int, every: int | None, last: int) -> bool:
    return step == last or (every is not None and step % every == 0)


class Scribe(AbstractContextManager["Scribe"]):
    """Writes down and shows what the leading rank sees."""

    def __init__(self, job: TrainJob, dataset: Dataset, folder: RunFolder, observer: Observer, trainer: Trainer):
        self._job, self._dataset, self._folder, self._observer, self._trainer = job, dataset, folder, observer, trainer
        self._journal = Journal(folder.path, trainer.step)
        self._results: list[TaskResult] = []

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def stepped(self, record: StepRecord) -> None:
        """A step was taken."""
        self._observer.stepped(record)
        if _due(record.step, self._job.run.log_every, self._job.schedule.steps):
            self._journal.log(record)

    def evaluate(self, record: StepRecord) -> None:
        """Measure the student as it is."""
        network = replace(self._trainer.network, module=self._trainer.result)
        self._results = run_tasks(network, self._job.evaluation, Engine(precision=self._job.run.precision))
        figures = {f"{result.task} {name}": value for result in self._results for name, value in result.figures.items()}
        self._journal.log_evaluation(record.step, record.samples, figures)
        self._observer.evaluated(record.step, figures)

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep the state."""
        self._folder.save(checkpoint)

    def finish(self) -> Outcome:
        """Publish the model and draw the curves."""
        model = self._folder.path / "model"
        export(self._trainer.network, self._trainer.result.state_dict(), self._dataset.recipe.interpolation, model)
        return Outcome(model, draw_curves(self._folder.path), self._results)


class Bystander(AbstractContextManager["Bystander"]):
    """Any other rank: it only takes its part in the steps."""

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def stepped(self, record: StepRecord) -> None:
        """The leading rank writes it down."""

    def evaluate(self, record: StepRecord) -> None:
        """The leading rank measures; the others wait for it in their next step."""

    def save(self, checkpoint: Checkpoint) -> None:
        """The leading rank keeps it."""

    def finish(self) -> None:
        """The leading rank publishes."""
