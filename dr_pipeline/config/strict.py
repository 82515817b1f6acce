"""The base of every schema, and the numbers that several of them use."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Triple = tuple[float, float, float]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


def triple(values: Iterable[Any]) -> Triple:
    """Three numbers as floats, such as a mean of red, green and blue. Raises ValueError or TypeError."""
    first, second, third = map(float, values)
    return first, second, third


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def is_unset(value: object) -> bool:
    """Whether a field is None, which is left out where it was added later: existing jobs keep their fingerprints."""
    return value is None


def is_empty(value: object) -> bool:
    """Whether a field that holds several holds none, which is left out likewise."""
    return not value


def left_out_at(default: object) -> Any:
    """A field that is likewise left out at its default."""
    return Field(exclude_if=lambda value: value == default)
