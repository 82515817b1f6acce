"""The jobs of the student: whether their data fit, their models can be had, and their folder can be written."""

from collections.abc import Iterator
from typing import Any, TypeAlias

from dr_pipeline.config.evaluation import Classification, EvaluateJob, Retrieval, Tasks
from dr_pipeline.config.training import TrainJob, TuneJob
from dr_pipeline.dataset.shard_patterns import find_shards
from dr_pipeline.doctor.examination import Diagnosis
from dr_pipeline.doctor.models import files_of, of_cards, stay_offline_where_the_hub_is_out_of_reach
from dr_pipeline.doctor.places import credentials_for, writable
from dr_pipeline.evaluation.evaluate import check_tasks
from dr_pipeline.networks.architecture import read_architecture
from dr_pipeline.networks.classifier import TIMM
from dr_pipeline.networks.timm_models import timm_without_weights
from dr_pipeline.storage import Storage
from dr_pipeline.training.checkpoint import RunFolder
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.tuning.tune import prepare, training_job_of
from dr_pipeline.words import plural

StudentJob: TypeAlias = TrainJob | EvaluateJob | TuneJob
"""Of `train`, `evaluate` and `tune-logit-scale`."""


def credentials(job: StudentJob) -> Iterator[Diagnosis]:
    """Where the credentials for remote data come from; they are not shown, and not tried here."""
    tasks, training = _tasks_of(job), _training_of(job)
    places: list[tuple[Any, str, dict[str, Any]]] = [
        (task.data, f"task {task.name}", task.storage) for task in _all(tasks)
    ]
    if training:
        places += [(training.data.shards, "data.shards", training.data.storage)]
        places += [(base.shards, "data.base", base.storage) for base in (training.data.base,) if base]
    yield from credentials_for(places)


def data(job: TrainJob | TuneJob) -> Iterator[Diagnosis]:
    """Whether the shards can be listed, say which teachers made them, and one of them be read and used."""
    training = _training_of(job)
    assert training is not None
    if training.data.base:  # its index may take longer to make than there is time
        for field, part in (("data.shards", training.data), ("data.base.shards", training.data.base)):
            number = len(find_shards(part.shards, Storage(part.storage), field).all_present())
            yield Diagnosis("ok", f"{field}: {plural(number, 'shard')}")
        return
    training_set = open_training_set(training)
    samples = f" of {plural(training_set.num_samples, 'sample')}" if training_set.num_samples else ""
    teachers = ", ".join(teacher.name for teacher in training_set.compared)
    compared = f", compared with {teachers}" if teachers else ""
    yield Diagnosis("ok", f"{plural(len(training_set.uris), 'shard')}{samples}{compared}, and the first can be read")


def evaluation(job: StudentJob) -> Iterator[Diagnosis]:
    """Whether the data, class names and templates of each task are there."""
    tasks, training = _tasks_of(job), _training_of(job)
    check_tasks(tasks, training.student.num_classes if training else None)
    names = [task.name for task in _all(tasks)]
    yield Diagnosis("ok", f"{plural(len(names), 'task')}: {', '.join(names)}" if names else "none is asked for")


def tuning(job: TuneJob) -> Iterator[Diagnosis]:
    """Whether the teachers, the figure and the files to write are there."""
    names = prepare(job).names
    runs = plural(len(names) * len(job.logit_scales), "run")
    yield Diagnosis("ok", f"{runs}, of {', '.join(names)} at {len(job.logit_scales)} scales, ranked by {job.metric}")


def folder(job: TrainJob | TuneJob) -> Iterator[Diagnosis]:
    """Whether the run's files can be written, or those of a tuning's runs: both are local."""
    if isinstance(job, TuneJob):
        training = training_job_of(job)
        job = training.model_copy(update={"run": training.run.model_copy(update={"path": job.path})})
    yield from writable(str(RunFolder(job).path), Storage())


def model(job: StudentJob) -> Iterator[Diagnosis]:
    """Whether the network can be made, and its files be had; of teachers in memory, the same of each card."""
    training = _training_of(job)
    if training:
        student = training.student
        yield from _network("student", student.architecture, student.weights, student.tokenizer, student.num_classes)
        yield from of_cards(training.distillation.online_teachers, training.plugin_dirs)
    elif isinstance(job, EvaluateJob) and job.model:
        yield from _network("model", job.model.architecture, job.model.weights, job.model.tokenizer, None)
    elif isinstance(job, EvaluateJob) and job.teacher:
        yield from of_cards((job.teacher,), job.plugin_dirs)


def _network(
    name: str, architecture: str, weights: str, tokenizer: str | None, num_classes: int | None
) -> Iterator[Diagnosis]:
    stay_offline_where_the_hub_is_out_of_reach()
    missing = [*files_of(name, {"model": architecture.removeprefix(TIMM), "weights": weights, "tokenizer": tokenizer})]
    if any(one.state == "fails" for one in missing):
        yield from missing
        return
    if architecture.startswith(TIMM):
        timm_without_weights(architecture.removeprefix(TIMM), weights, num_classes, None)
    elif not (architecture.endswith(".json") and name == "model"):  # which may be a classifier's, that has its own form
        read_architecture(architecture, weights)
    yield from missing


def _training_of(job: StudentJob) -> TrainJob | None:
    if isinstance(job, TuneJob):
        return training_job_of(job)
    return job if isinstance(job, TrainJob) else None


def _tasks_of(job: StudentJob) -> Tasks:
    training = _training_of(job)
    if training:
        return training.evaluation
    assert isinstance(job, EvaluateJob)
    return job.tasks


def _all(tasks: Tasks) -> list[Classification | Retrieval]:
    return [*tasks.classification, *tasks.retrieval]
