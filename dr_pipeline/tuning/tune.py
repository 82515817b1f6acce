"""Which logit scale each teacher teaches best at, by short training runs of each teacher alone (paper, table 3)."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import torch

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.evaluation import Classification, Retrieval, Tasks
from dr_pipeline.config.job import differing_keys
from dr_pipeline.config.jobfile import load
from dr_pipeline.config.training import StoredTeacher, TrainJob
from dr_pipeline.config.tuning import TuneJob
from dr_pipeline.errors import ConfigError, PipelineError, nearest
from dr_pipeline.evaluation.evaluate import RECALLS
from dr_pipeline.storage import Storage, refuse_fleeting
from dr_pipeline.train.checkpoint import RunFolder
from dr_pipeline.train.columns import chosen
from dr_pipeline.train.data.dataset import open_dataset
from dr_pipeline.train.distributed import Rank, joined_ranks
from dr_pipeline.train.feed import OnlineTeachers
from dr_pipeline.train.journal import read_journal
from dr_pipeline.train.train import Observer, digests_of, train
from dr_pipeline.tuning.results import Trial, Tuning, draw
from dr_pipeline.tuning.scale_files import ScaleFile, scale_text

LoadTeachers = Callable[[torch.device], OnlineTeachers]


def tune(job: TuneJob, observer: Observer, online: Callable[[TrainJob], LoadTeachers | None]) -> Tuning | None:
    """Train what is not trained yet, write down what is best. None on all ranks but one.

    `online` says how a training job's teachers are loaded. Leaves tuning.json and tuning.png in the job's folder and,
    where every run came to its end, the chosen scales in the files of `write_to`. A run that fails does not stop the
    others, unless there are several ranks. Raises ConfigError before anything is written where the job cannot be used.
    """
    refuse_fleeting(str(Path(job.path).absolute()), "path")
    with joined_ranks() as rank:
        train_job = load(_find(job, job.train, "train"), TrainJob, job.overrides)
        _check_metric(job.metric, _expected_figures(train_job.evaluation))
        held = _teachers(train_job)
        names = [teacher.name for teacher in _tuned(job, train_job, held)]
        files = [ScaleFile(_find(job, path, "write_to"), held) for path in job.write_to]
        for file in files:  # better refused now than when all is trained
            file.rewritten(dict.fromkeys(names, job.logit_scales[0]))
        runs = [_Run(job, train_job, name, scale) for name in names for scale in job.logit_scales]
        if rank.leads:
            _claim(Path(job.path), train_job.evaluation)
        failures = [run.finish(rank, observer, online) for run in runs]
        if not rank.leads:
            return None
        trials = tuple(run.trial(job.metric, failure) for run, failure in zip(runs, failures, strict=True))
        return _publish(job, Tuning(job.metric, trials), files)


class _Run:
    """The training run of one teacher at one logit scale, in a folder of its own."""

    def __init__(self, job: TuneJob, train_job: TrainJob, teacher: str, logit_scale: float):
        """Raises ConfigError where the folder is not local."""
        self._teacher, self._logit_scale = teacher, logit_scale
        folder = f"{job.path}/{_file_name(teacher)}/{scale_text(logit_scale)}"
        changes = {"teachers": (teacher,), "logit_scales": (logit_scale,)}
        self._job = train_job.model_copy(
            update={
                "name": f"{teacher} at {scale_text(logit_scale)}",
                "distillation": train_job.distillation.model_copy(update=changes),
                "run": train_job.run.model_copy(update={"path": folder}),
            }
        )
        self._folder = RunFolder(self._job)

    def finish(self, rank: Rank, observer: Observer, online: Callable[[TrainJob], LoadTeachers | None]) -> str | None:
        """Train from where the run stands to its end; nothing where it has ended. What went wrong, if anything did.

        Raises ConfigError where the folder holds the run of another training job; with several ranks also what went
        wrong, which the others may not know of.
        """
        if self._figures():
            if rank.leads:
                self._folder.claim(digests_of(self._job, open_dataset(self._job)))
            return None
        try:
            train(self._job, observer, online(self._job))
        except PipelineError as error:
            if isinstance(error, ConfigError) or rank.world_size > 1:
                raise
            return str(error)
        return None

    def trial(self, metric: str, failure: str | None) -> Trial:
        """What the run found. Raises ConfigError where its evaluation has no such figure."""
        figures = self._figures()
        if figures:
            _check_metric(metric, list(figures))
        return Trial(self._teacher, self._logit_scale, figures.get(metric), failure)

    def _figures(self) -> dict[str, float]:
        """The evaluation after the last step; empty where the run has not come there."""
        for record in read_journal(self._folder.path):
            if record["event"] == "evaluation" and record["step"] == self._job.schedule.steps:
                return {name: value for name, value in record.items() if name not in ("event", "step", "samples")}
        return {}


def _teachers(job: TrainJob) -> Sequence[StoredTeacher | TeacherCard]:
    """All that the loss could compare with. Raises ConfigError where there is none."""
    if not job.distils:
        raise ConfigError("the training job does not distil: set distillation.weight above 0 and objective to clip")
    return job.distillation.online_teachers or open_dataset(job).teachers


def _tuned(
    job: TuneJob, train_job: TrainJob, held: Sequence[StoredTeacher | TeacherCard]
) -> Sequence[StoredTeacher | TeacherCard]:
    """Those that the job names, else those that the training job compares with. Raises ConfigError."""
    names = job.teachers or train_job.distillation.teachers
    return chosen(train_job.distillation.model_copy(update={"teachers": names}), held)


def _expected_figures(tasks: Tasks) -> list[str]:
    """What an evaluation finds; acc5 only where there are five classes, which the data say."""
    recalls = [f"{direction}_r{k}" for direction in ("image_to_text", "text_to_image") for k in RECALLS]
    return [f"{task.name} {name}" for task in tasks.classification for name in ("acc1", "acc5")] + [
        f"{task.name} {name}" for task in tasks.retrieval for name in recalls
    ]


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


def _file_name(teacher: str) -> str:
    """The name as one visible folder's: a dataset may call its teachers whatever it likes."""
    return re.sub(r"^\.", "%2E", quote(teacher, safe=""))


def _claim(folder: Path, tasks: Tasks) -> None:
    """Write down what is measured: figures of one task on different data do not compare. Raises ConfigError."""
    record = folder / "tasks.json"
    measured: list[Classification | Retrieval] = [*tasks.classification, *tasks.retrieval]
    ours = {task.name: task.model_dump(mode="json", exclude={"storage"}) for task in measured}
    stored = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    known = stored.keys() & ours.keys()
    changed = differing_keys({name: stored[name] for name in known}, {name: ours[name] for name in known})
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise ConfigError(f"path {folder} holds runs that were measured otherwise:\n{lines}\nChoose another path.")
    try:
        Storage().write(str(record), json.dumps({**stored, **ours}, indent=1).encode())
    except OSError as error:
        raise ConfigError(f"path {folder} cannot be written: {error}") from error


def _publish(job: TuneJob, tuning: Tuning, files: Sequence[ScaleFile]) -> Tuning:
    """Write the results, and the chosen scales where nothing is missing."""
    if not tuning.failed:
        for file in files:
            file.write(tuning.best())
        tuning = Tuning(tuning.metric, tuning.trials, tuple(str(file.path) for file in files))
    Storage().write(f"{job.path}/tuning.json", json.dumps(tuning.record(), indent=1).encode())
    with Storage().staged(f"{job.path}/tuning.png") as path:
        draw(tuning, path)
    return tuning
