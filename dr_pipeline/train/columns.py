"""Whose the columns of the teachers' embeddings are, and which of them the loss compares with."""

from collections.abc import Sequence
from typing import TypeVar

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.training import Distillation, StoredTeacher
from dr_pipeline.errors import ConfigError, nearest

Teacher = TypeVar("Teacher", bound=StoredTeacher | TeacherCard)


def chosen(distillation: Distillation, held: Sequence[Teacher]) -> tuple[Teacher, ...]:
    """Those of the held teachers that the job names, in its order. Raises ConfigError where a name is unknown."""
    if distillation.teachers is None:
        return tuple(held)
    known = {teacher.name: teacher for teacher in held}
    for name in distillation.teachers:
        if name not in known:
            there = ", ".join(known)
            raise ConfigError(f"teachers: no teacher {name}{nearest(name, known)}; there are {there}")
    return tuple(known[name] for name in distillation.teachers)


def compared(distillation: Distillation, held: Sequence[StoredTeacher]) -> tuple[StoredTeacher, ...]:
    """The chosen teachers, with the job's logit scales where it gives them; of none, none.

    Raises ConfigError where a name is unknown, or the logit scales are not as many as the teachers.
    """
    teachers = chosen(distillation, held) if held else ()
    scales = distillation.logit_scales
    if not held or scales is None:
        return teachers
    if len(scales) != len(teachers):
        raise ConfigError(
            f"distillation.logit_scales has {len(scales)} values for {len(teachers)} teachers: "
            f"{', '.join(teacher.name for teacher in teachers)}"
        )
    return tuple(
        teacher.model_copy(update={"logit_scale": scale}) for teacher, scale in zip(teachers, scales, strict=True)
    )


def places(held: Sequence[StoredTeacher], teachers: Sequence[StoredTeacher]) -> list[int]:
    """The columns of some of the held teachers, in the order of these."""
    first, columns = 0, {}
    for teacher in held:
        columns[teacher.name] = range(first, first + teacher.dim)
        first += teacher.dim
    return [column for teacher in teachers for column in columns[teacher.name]]
