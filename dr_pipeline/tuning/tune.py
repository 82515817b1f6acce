"""Which logit scale each teacher teaches best at, by short training runs of each teacher alone (paper, table 3)."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from dr_pipeline.config.evaluation import Classification, Retrieval, Tasks
from dr_pipeline.config.extras import require
from dr_pipeline.config.job import differing_keys
from dr_pipeline.config.jobfile import load
from dr_pipeline.config.training import TrainJob, TuneJob
from dr_pipeline.errors import ConfigError, PipelineError, nearest, reason
from dr_pipeline.evaluation.evaluate import RECALLS
from dr_pipeline.storage import Storage, refuse_ray_working_dir
from dr_pipeline.training.checkpoint import RunFolder
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.training.distributed import Rank, joined_ranks
from dr_pipeline.training.metrics import read_metrics
from dr_pipeline.training.online import OnlineTeachers
from dr_pipeline.training.train import TrainCallback, digests_of, train
from dr_pipeline.tuning.results import Trial, Tuning, draw, run_folder
from dr_pipeline.tuning.scale_files import ScaleFile, scale_text

LoadTeachers = Callable[[torch.device], OnlineTeachers]


def tune(job: TuneJob, callback: TrainCallback, online: Callable[[TrainJob], LoadTeachers | None]) -> Tuning | None:
    """Make the training runs that are not finished, and write down which logit scale is best. None on other ranks.

    `online` says how a training job's teachers are loaded. Leaves tuning.json and tuning.png in the job's folder and,
    where every run came to its end, the best scales in the files of `write_to`. A run that fails does not stop the
    others, unless there are several ranks. Raises ConfigError before anything is written where the job cannot be used.
    """
    refuse_ray_working_dir(str(Path(job.path).absolute()), "path")
    with joined_ranks() as rank:
        train_job, names, files = prepare(job)
        runs = [_Run(job, train_job, name, scale) for name in names for scale in job.logit_scales]
        if rank.leads:
            _record_tasks(Path(job.path), train_job.evaluation)
        failures = [run.finish(rank, callback, online) for run in runs]
        if not rank.leads:
            return None
        trials = tuple(run.trial(job.metric, failure) for run, failure in zip(runs, failures, strict=True))
        tuning = Tuning(job.metric, trials)
        if not tuning.failed:
            for file in files:
                file.write(tuning.best())
            tuning = replace(tuning, written=tuple(str(file.path) for file in files))
        Storage().write(f"{job.path}/tuning.json", json.dumps(tuning.record(), indent=1).encode())
        with Storage().staged(f"{job.path}/tuning.png") as path:
            draw(tuning, path)
        return tuning


class Prepared(NamedTuple):
    """What a tuning works with."""

    train_job: TrainJob
    names: list[str]
    """Of the teachers that are tuned."""
    files: list[ScaleFile]
    """That the best scales are written into."""


def training_job_of(job: TuneJob) -> TrainJob:
    """The training job whose runs are made. Raises ConfigError."""
    return load(_find(job, job.train, "train"), TrainJob, job.overrides)


def prepare(job: TuneJob) -> Prepared:
    """Find what a tuning works with; nothing is written. Raises ConfigError where the job cannot be used."""
    require("matplotlib", "tuning.png")
    train_job = training_job_of(job)
    distillation = train_job.distillation
    _check_metric(job.metric, _figures_of(train_job.evaluation))
    if not train_job.distils:
        raise ConfigError("the training job does not distil: set distillation.weight above 0 and objective to clip")
    stored = distillation.online_teachers or open_training_set(train_job).teachers
    teachers = [teacher for teacher in stored if not teacher.encodes]
    tuned = {"teachers": job.teachers or distillation.teachers, "logit_scales": None}
    names = list(distillation.model_copy(update=tuned).scales_of(teachers))
    files = [ScaleFile(_find(job, path, "write_to"), teachers) for path in job.write_to]
    for file in files:  # better refused now than when all is trained
        file.rewritten(dict.fromkeys(names, job.logit_scales[0]))
    return Prepared(train_job, names, files)


class _Run:
    """The training run of one teacher at one logit scale, in a folder of its own."""

    def __init__(self, job: TuneJob, train_job: TrainJob, teacher: str, logit_scale: float):
        """Raises ConfigError where the folder is not local."""
        self._teacher, self._logit_scale = teacher, logit_scale
        folder = run_folder(job.path, teacher, logit_scale)
        changes = {"teachers": (teacher,), "logit_scales": (logit_scale,)}
        self._job = train_job.model_copy(
            update={
                "name": f"{teacher} at {scale_text(logit_scale)}",
                "distillation": train_job.distillation.model_copy(update=changes),
                "run": train_job.run.model_copy(update={"path": folder}),
            }
        )
        self._folder = RunFolder(self._job)

    def finish(
        self, rank: Rank, callback: TrainCallback, online: Callable[[TrainJob], LoadTeachers | None]
    ) -> str | None:
        """Train from where the run stands to its end. Gives what made it fail; None where it came to its end.

        Raises ConfigError where the folder holds the run of another training job. With several ranks a failure is
        raised too, for the other ranks may not know of it.
        """
        if self._figures():
            if rank.leads:
                self._folder.claim(digests_of(self._job, open_training_set(self._job)))
            return None
        try:
            train(self._job, callback, online(self._job))
        except PipelineError as error:
            if isinstance(error, ConfigError) or rank.world_size > 1:
                raise
            return str(error)
        return None

    def trial(self, metric: str, failure: str | None) -> Trial:
        """The run's metric. Raises ConfigError where its evaluation has no such figure."""
        figures = self._figures()
        if figures:
            _check_metric(metric, list(figures))
        return Trial(self._teacher, self._logit_scale, figures.get(metric), failure)

    def _figures(self) -> dict[str, float]:
        """The figures of the evaluation after the last step; none where the run has not come there."""
        for record in read_metrics(self._folder.path):
            if record["event"] == "evaluation" and record["step"] == self._job.schedule.last_step:
                return {name: value for name, value in record.items() if name not in ("event", "step", "samples")}
        return {}


def _figures_of(tasks: Tasks) -> list[str]:
    """What the figures of an evaluation are called."""
    recalls = [f"{direction}_r{k}" for direction in ("image_to_text", "text_to_image") for k in RECALLS]
    figures = [f"{task.name} {name}" for task in tasks.classification for name in ("acc1", "acc5")]
    return figures + [f"{task.name} {name}" for task in tasks.retrieval for name in recalls]


def _check_metric(metric: str, figures: Sequence[str]) -> None:
    if metric not in figures:
        there = ", ".join(figures) or "none: give the training job an evaluation"
        raise ConfigError(f"metric: no figure {metric!r}{nearest(metric, figures)}; there are {there}")


def _find(job: TuneJob, file: str, field: str) -> Path:
    candidates = [Path(file), *(Path(folder, file) for folder in job.plugin_dirs)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ConfigError(f"{field}: no file at {' or '.join(dict.fromkeys(map(str, candidates)))}")


def _record_tasks(folder: Path, tasks: Tasks) -> None:
    """Write tasks.json, what is measured. Raises ConfigError where earlier runs measured a task of a name otherwise."""
    record = folder / "tasks.json"
    measured: list[Classification | Retrieval] = [*tasks.classification, *tasks.retrieval]
    ours = {task.name: task.model_dump(mode="json", exclude={"storage"}) for task in measured}
    try:
        stored = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        known = stored.keys() & ours.keys()
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise ConfigError(f"{record} is not a tuning's: {reason(error)}: choose another path") from error
    changed = differing_keys({name: stored[name] for name in known}, {name: ours[name] for name in known})
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise ConfigError(f"path {folder} holds runs that were measured otherwise:\n{lines}\nChoose another path.")
    try:
        Storage().write(str(record), json.dumps({**stored, **ours}, indent=1).encode())
    except OSError as error:
        raise ConfigError(f"path {folder} cannot be written: {error}") from error
