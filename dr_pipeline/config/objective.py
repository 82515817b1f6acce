"""The schema of what a student learns: its losses, their weights, and the teachers whose embeddings they take."""

import re
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from dr_pipeline.config.cards import Encodes, TeacherCard
from dr_pipeline.config.strict import Fraction, Positive, PositiveInt, Strict, is_empty, is_unset
from dr_pipeline.errors import ConfigError, nearest
from dr_pipeline.words import plural

Weight = Annotated[float, Field(ge=0)]


class StoredTeacher(Strict):
    """A teacher whose embeddings a dataset holds: its number of columns and its logit scale.

    `encodes` is set where it embeds images alone, or texts alone.
    """

    name: str
    dim: PositiveInt
    logit_scale: Positive
    encodes: Annotated[tuple[Encodes, ...] | None, Field(min_length=1, exclude_if=is_unset)] = None


class CaptionWeights(Strict):
    """The two captions of a sample, and the weights of their losses."""

    ground_truth_weight: Weight = 1.0
    synthetic_weight: Weight = 1.0
    synthetic_key: str = r"^syn_text.*$"
    """A regular expression; a random one of the matching keys of `syn.json` is used."""

    @field_validator("synthetic_key")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if self.ground_truth_weight == self.synthetic_weight == 0:
            raise ValueError("ground_truth_weight and synthetic_weight are both 0: nothing is learnt")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weights of those kinds that count: "text", the ground truth, and "synthetic"."""
        weights = {"text": self.ground_truth_weight, "synthetic": self.synthetic_weight}
        return {kind: weight for kind, weight in weights.items() if weight}


class Affinity(Strict):
    """How much the affinity loss of one teacher counts, and its temperature."""

    weight: Weight = 1.0
    logit_scale: Positive | None = None
    """1 / τ of the teacher and of the student; None: as the dataset's config.json says of the teacher."""


class Distillation(Strict):
    """The distillation loss, equations (1) and (2), and the affinity loss."""

    weight: Fraction = 1.0
    """λ; 0 is plain CLIP training."""
    teachers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The names of the teachers in the loss; None: all. `logit_scales` is in the same order."""
    logit_scales: tuple[Positive, ...] | None = None
    """1 / τ of each teacher, in order; None: as the dataset's config.json says."""
    online_teachers: tuple[TeacherCard, ...] = ()
    """Teachers that embed every batch, at their full cost; none: the stored embeddings are used."""
    affinity: dict[str, Affinity] = Field(default={}, exclude_if=is_empty)
    """By teacher, such as one of images alone: the student's similarities among images are to be like its own."""

    def scales_of(self, teachers: Sequence[StoredTeacher | TeacherCard]) -> dict[str, float]:
        """Which of the teachers equation (1) compares with, in the job's order: name → 1 / τ, the job's or its own.

        Raises ConfigError where a name is not one of a teacher of images and texts, or the logit scales are not as many
        as the teachers.
        """
        known = {teacher.name: teacher.logit_scale for teacher in teachers if not teacher.encodes}
        names = tuple(known) if self.teachers is None else self.teachers
        for name in names:
            if name not in known:
                there = ", ".join(known)
                raise ConfigError(f"teachers: no teacher {name}{nearest(name, known)}; there are {there}")
        if self.logit_scales is None:
            return {name: known[name] for name in names}
        if len(self.logit_scales) != len(names):
            count = len(self.logit_scales)
            raise ConfigError(
                f"distillation.logit_scales has {plural(count, 'value')} for {len(names)} teachers: {', '.join(names)}"
            )
        return dict(zip(names, self.logit_scales, strict=True))

    def affinity_of(self, teachers: Sequence[StoredTeacher]) -> dict[str, tuple[float, float]]:
        """The affinity losses: name of a teacher → its weight and 1 / τ, the job's or its own.

        Raises ConfigError where a name is unknown.
        """
        known = {teacher.name: teacher.logit_scale for teacher in teachers}
        for name in self.affinity:
            if name not in known:
                there = ", ".join(known) or "none"
                raise ConfigError(f"distillation.affinity: no teacher {name}{nearest(name, known)}; there are {there}")
        return {name: (loss.weight, loss.logit_scale or known[name]) for name, loss in self.affinity.items()}


class Coca(Strict):
    """The weights of CoCa's losses, table 16."""

    caption_weight: Weight = 2.0
    contrastive_weight: Weight = 1.0


class Classify(Strict):
    """The loss of a classifier with labels."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The part of each label that all classes share."""
