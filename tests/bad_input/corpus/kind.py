"""What a kind of bad input is, and the limits of the job that reads it."""

from typing import NamedTuple

from tests.bad_input.making import Make


class Kind(NamedTuple):
    """A kind of bad input, between a good sample and another."""

    name: str
    make: Make
    ends: tuple[str, ...]
    """How each of its samples ends: `reinforced` or `skipped: REASON`; or `shard fails: WORDS OF THE MESSAGE`."""
    why: str


REINFORCED = ("reinforced",)
NO_SAMPLE: tuple[str, ...] = ()

MAX_SKIPPED = 0.6
MAX_IMAGE_PIXELS = 1_000_000
MAX_MEMBER_BYTES = 3_000_000


def skipped(reason: str) -> tuple[str, ...]:
    """One sample, left out for this reason."""
    return (f"skipped: {reason}",)


def fails(message: str) -> tuple[str, ...]:
    """The shard is not published."""
    return (f"shard fails: {message}",)
