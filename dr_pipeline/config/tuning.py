"""The schema of a tuning job: the training, the logit scales to try, and the figure that ranks them."""

from typing import Annotated

from pydantic import Field, field_validator

from dr_pipeline.config.strict import Positive, Strict


class TuneJob(Strict):
    """Short training runs of each teacher alone, at each of some logit scales (paper, table 3)."""

    name: str
    train: str
    """The training job's file, relative to the working folder or to this job file's."""
    overrides: tuple[str, ...] = ()
    """Fields of the training job to replace, as key.path=value, so that a run is short."""
    logit_scales: Annotated[tuple[Positive, ...], Field(min_length=2)]
    teachers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of teachers; None: all in the training job's loss."""
    metric: str
    """A figure of the training job's evaluation, named as in log.jsonl; higher is better."""
    path: str
    """The folder of the results and of the runs: a folder for each teacher, with one for each scale."""
    write_to: tuple[str, ...] = ()
    """Cards and job files that the best scales are written into; looked for like `train`."""
    plugin_dirs: tuple[str, ...] = (".",)
    """Folders in which `train` and `write_to` are looked for; the job file's folder is added."""

    @field_validator("logit_scales")
    @classmethod
    def _ascending(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(scales)) < len(scales):
            raise ValueError("a scale is there twice")
        return tuple(sorted(scales))
