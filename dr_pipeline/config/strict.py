"""The base of every schema, and the numbers that several of them use."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Triple = tuple[float, float, float]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


def triple(values: Iterable[Any]) -> Triple:
    """Three numbers as floats, such as a mean of red, green and blue. Raises ValueError or TypeError."""
    first, second, third = map(float, values)
    return first, second, third


class Strict(BaseModel):
    """Frozen; an unknown key is an error, and so is `true` or YAML's `off` in the place of a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        given = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, bool) for one in given):
            kinds = {*_kinds_in(cls.model_fields[str(info.field_name)].annotation)}
            if kinds <= {int, float, type(None)}:
                raise PydanticCustomError("int_type" if int in kinds else "float_type", "not a number")
        return value


def _kinds_in(annotation: Any) -> Iterator[Any]:
    """What an annotation of alternatives, or of a tuple, is made of."""
    if get_origin(annotation) is Annotated:
        annotation, *_ = get_args(annotation)
    parts = [part for part in get_args(annotation) if part is not ...]
    for part in parts:
        yield from _kinds_in(part)
    if not parts:
        yield annotation


def is_unset(value: object) -> bool:
    """Whether a field is None, which is left out where it was added later: existing jobs keep their fingerprints."""
    return value is None


def is_empty(value: object) -> bool:
    """Whether a field that holds several holds none, which is left out likewise."""
    return not value


def left_out_at(default: object) -> Any:
    """A field that is likewise left out at its default."""
    return Field(exclude_if=lambda value: value == default)
