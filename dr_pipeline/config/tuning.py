"""The tuning job: which training, which logit scales, and by what the best is known."""

from typing import Annotated

from pydantic import Field, field_validator

from dr_pipeline.config.strict import Strict
from dr_pipeline.config.training import PositiveFloat


class TuneJob(Strict):
    """Short training runs of each teacher alone, at each of some logit scales (paper, table 3)."""

    name: str
    train: str
    """The training job's file, relative to the working folder or to this job file's."""
    overrides: tuple[str, ...] = ()
    """Fields of the training job to replace, as key.path=value: what makes it short."""
    logit_scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=2)]
    teachers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names; None: all that the training job compares with."""
    metric: str
    """A figure of the training job's evaluation, task and name as in log.jsonl; the higher, the better."""
    path: str
    """The folder of the runs, one below each teacher's for each scale, and of what they showed."""
    write_to: tuple[str, ...] = ()
    """Cards and job files that the chosen scales are written into; found as `train` is."""
    plugin_dirs: tuple[str, ...] = (".",)
    """Folders that `train` and `write_to` are looked for in; the job file's own is added."""

    @field_validator("logit_scales")
    @classmethod
    def _ascending(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(scales)) < len(scales):
            raise ValueError("a scale is there twice")
        return tuple(sorted(scales))
