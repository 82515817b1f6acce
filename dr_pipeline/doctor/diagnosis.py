"""What a check says of a machine: a fact, whether the work can be done with it, and what to do where it cannot."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "fails"]
"""Of what fails a run has need; with a warning it goes on, slower or with less."""


@dataclass(frozen=True)
class Diagnosis:
    """One thing that a check has found."""

    state: State
    fact: str
    advice: str = ""
    """What to do; what is ok needs none."""
    lacks: str = ""
    """What therefore does not work on this machine, and what happens instead."""


Check = Callable[..., Iterator[Diagnosis]]
"""Looks at one thing, for a job: one of the machine may be given none. What it raises is a diagnosis too: it fails."""
