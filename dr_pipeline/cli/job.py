"""Job files on the command line: one that is given to the wrong verb is told the right one."""

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel

from dr_pipeline.config.cards import Card
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import kind_of, load
from dr_pipeline.errors import ConfigError

AnyJob = TypeVar("AnyJob", bound=BaseModel)


def load_job(path: str, kind: type[AnyJob], overrides: Sequence[str] = ()) -> AnyJob:
    """A job file of this kind. Raises ConfigError; for a file of another kind, with the verb that takes it."""
    try:
        return load(path, kind, overrides)
    except ConfigError as error:
        raise meant(path, kind) or error from None


def meant(path: str, kind: type[BaseModel]) -> ConfigError | None:
    """Which verb takes this file; None where none does, or the one that it was given to."""
    from dr_pipeline.config.evaluation import EvaluateJob
    from dr_pipeline.config.training import TrainJob
    from dr_pipeline.config.tuning import TuneJob

    kinds: dict[str, type[BaseModel]] = {
        "run": Job,
        "train": TrainJob,
        "evaluate": EvaluateJob,
        "tune-logit-scale": TuneJob,
        "check-teacher": Card,
    }
    verb = kind_of(path, kinds)
    if verb is None or issubclass(kind, kinds[verb]):
        return None
    return ConfigError(f"{path} is no file for this verb: use `dr-pipeline {verb} {path}`")
