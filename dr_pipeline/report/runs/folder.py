"""A training run as its folder tells of it."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from pydantic import ValidationError

from dr_pipeline.config.training import TrainJob
from dr_pipeline.config.wording import what_is_wrong
from dr_pipeline.errors import ConfigError
from dr_pipeline.networks.classifier import CLASSIFIER_FILES
from dr_pipeline.report.runs.recognised import RUN_FILE, read_identity
from dr_pipeline.training.metrics import figures_of, read_metrics
from dr_pipeline.training.record import read_record

_MODEL_FILES = (HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME), CLASSIFIER_FILES
"""Of a published model its configuration and its weights: open_clip's, timm's."""


@dataclass(frozen=True)
class TrainingRun:
    """What is stored of a run, which may still be going on."""

    folder: Path
    job: dict[str, Any]
    """Its identity: all that decides the weights, with `contents`, the digests of what it trains on."""
    record: dict[str, Any]
    """What about.json says; empty for a run of an earlier version."""
    steps: list[dict[str, Any]]
    """The logged steps, in order."""
    evaluations: list[dict[str, Any]]
    """The evaluations, in order."""

    @property
    def name(self) -> str:
        """What the job is called, else the folder."""
        return str(self.record.get("name") or self.folder.resolve().name)

    @property
    def last_step(self) -> int:
        """The step after which the run ends."""
        schedule = self.job["schedule"]
        return int(self.record.get("last_step") or schedule.get("stop_at") or schedule["steps"])

    @property
    def step(self) -> int:
        """The last step that is logged; 0 before the first."""
        return max((int(record["step"]) for record in (*self.steps, *self.evaluations)), default=0)

    @property
    def restarts(self) -> list[int]:
        """The steps after which the run was stopped and started again."""
        return [start["step"] for start in self.record.get("starts", [])[1:]]

    @property
    def model(self) -> tuple[Path, Path] | None:
        """Configuration and weights of the published model; None where there is none yet."""
        for config, weights in _MODEL_FILES:
            paths = self.folder / "model" / config, self.folder / "model" / weights
            if all(path.is_file() for path in paths):
                return paths
        return None

    @property
    def train_seconds(self) -> float:
        """How long the logged steps took, by the rates that were logged with them."""
        seconds, samples = 0.0, 0
        for record in self.steps:
            if record["samples_per_second"]:
                seconds += (record["samples"] - samples) / record["samples_per_second"]
            samples = record["samples"]
        return seconds

    @cached_property
    def skipped(self) -> Counter[str]:
        """Reason → samples that could not be used, on the leading rank, in all processes of the run together."""
        ends = [*self.restarts, self.last_step]
        counts, logged = Counter[str](), [*self.steps]
        for end in ends:
            own = [record for record in logged if record["step"] <= end]
            logged = logged[len(own) :]
            if own:
                last = own[-1]
                unnamed = {"unknown": last["skipped"]} if last.get("skipped") else {}
                counts.update(last.get("skip_reasons") or unnamed)
        return counts

    def logged(self, field: str) -> tuple[list[int], list[float]]:
        """The steps with which a quantity was logged, and its values."""
        records = [record for record in self.steps if field in record]
        return [record["step"] for record in records], [record[field] for record in records]

    def measured(self, figure: str) -> tuple[list[int], list[float]]:
        """The steps after which a figure was measured, and its values in per cent."""
        records = [record for record in self.evaluations if figure in record]
        return [record["step"] for record in records], [100 * record[figure] for record in records]

    def figures(self) -> list[str]:
        """The names of all that the evaluations measured, in order."""
        return [*dict.fromkeys(name for record in self.evaluations for name in figures_of(record))]


def read_run(folder: str) -> TrainingRun:
    """What a run's folder holds. Raises ConfigError where it is none."""
    path = Path(folder)
    job, records = read_identity(folder), read_metrics(path)
    by_event = {event: [one for one in records if one.get("event") == event] for event in ("step", "evaluation")}
    return TrainingRun(path, job, read_record(path), by_event["step"], by_event["evaluation"])


def with_every_field(run: TrainingRun) -> TrainingRun:
    """The run with those fields of its job, too, that its version did not know: with their defaults.

    Raises ConfigError where job.json lacks a field that every job has, or gives one a value that it does not take.
    """
    known = {name: value for name, value in run.job.items() if name in TrainJob.model_fields}
    try:
        job = TrainJob.model_validate({**known, "name": run.name, "run": {"path": str(run.folder)}})
    except ValidationError as error:
        wrong = "; ".join(what_is_wrong(TrainJob, error))
        raise ConfigError(f"{run.folder}: its {RUN_FILE} is no training job's: {wrong}") from error
    return replace(run, job=run.job | {name: value for name, value in job.identity().items() if name != "precision"})
