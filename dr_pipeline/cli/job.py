"""Job files on the command line: the error for a file given to the wrong verb names the right one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from pydantic import BaseModel

from dr_pipeline.config.cards import Card
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import kind_of, load
from dr_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from dr_pipeline.doctor.examination import AnyJob

Kind = TypeVar("Kind", bound=BaseModel)


def load_job(path: str, kind: type[Kind], overrides: Sequence[str] = ()) -> Kind:
    """A job file of this kind. Raises ConfigError; for a file of another kind, with the verb that takes it."""
    try:
        return load(path, kind, overrides)
    except ConfigError as error:
        raise wrong_verb(path, kind) or error from None


def load_any_job(path: str, overrides: Sequence[str] = ()) -> "AnyJob":
    """A job file of whichever kind. Raises ConfigError; for a card, with the verb that takes it."""
    kinds = kinds_by_verb()
    kind = kinds[kind_of(path, kinds) or "run"]
    return cast("AnyJob", load_job(path, Job if issubclass(kind, Card) else kind, overrides))


def wrong_verb(path: str, kind: type[BaseModel]) -> ConfigError | None:
    """The error that names the verb which takes this file; None where no other verb does."""
    kinds = kinds_by_verb()
    verb = kind_of(path, kinds)
    if verb is None or issubclass(kind, kinds[verb]):
        return None
    return ConfigError(f"{path} is no file for this verb: use `dr-pipeline {verb} {path}`")


def kinds_by_verb() -> dict[str, type[BaseModel]]:
    """The verbs that take a file, each with the file's kind; where several take one kind, that which works on it."""
    from dr_pipeline.config.evaluation import EvaluateJob
    from dr_pipeline.config.training import TrainJob, TuneJob

    return {
        "run": Job,
        "train": TrainJob,
        "evaluate": EvaluateJob,
        "tune-logit-scale": TuneJob,
        "check-teacher": Card,
    }
