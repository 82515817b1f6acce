"""Samples on their way through the device: each model has batches of its own, filled from all samples of a shard.

Shapes: N views of a sample, T captions of one kind, D dims of a teacher.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from dr_pipeline.dataset.sample import Column, Sample
from dr_pipeline.errors import ModelError, ShardError
from dr_pipeline.models.ensemble import PendingColumns

Item = TypeVar("Item")


@dataclass(frozen=True)
class Launched:
    """A batch that the device has been told to compute, and the keys of its samples in words."""

    columns: PendingColumns
    keys: str

    def finish(self) -> dict[str, np.ndarray]:
        """Wait for the device → the rows of all samples by teacher. Raises ShardError, with the keys, on bad rows."""
        with naming(self.keys):
            return self.columns.finish()


class Row(NamedTuple):
    """The place of one view's, or one text's, columns."""

    batch: Launched
    place: int


@dataclass(eq=False)
class InFlight:
    """A sample and what the device computes of it; a sample to be skipped passes with the others, and has no rows."""

    sample: Sample
    rows: dict[str, list[Row]] = field(default_factory=dict)
    """IMAGE → a row for each view; TEXT, or a key of `syn.json` → a row for each caption."""

    def finish(self) -> Sample:
        """Wait for the device, fill in the sample's columns. Raises ShardError, with the keys, on bad rows."""
        for of, rows in self.rows.items():
            finished = [row.batch.finish() for row in rows]
            for teacher in finished[0]:
                emb_RD = np.stack([columns[teacher][row.place] for columns, row in zip(finished, rows, strict=True)])
                self.sample.columns[Column(teacher, of)] = emb_RD
        return self.sample


def in_groups(items: Iterable[Item], size_of: Callable[[Item], int], size: int) -> Iterator[list[Item]]:
    """Lists of consecutive items: each ends with the item with which the sizes reach `size`, the last with the last."""
    group: list[Item] = []
    reached = 0
    for item in items:
        group.append(item)
        reached += size_of(item)
        if reached >= size:
            yield group
            group, reached = [], 0
    if group:
        yield group


def keys_of(samples: Sequence[Sample]) -> str:
    """The first and the last key of one or more samples, for an error."""
    return f"samples {samples[0].key} … {samples[-1].key}"


@contextmanager
def naming(keys: str) -> Iterator[None]:
    """Turn a ModelError into a ShardError that names the keys of the samples."""
    try:
        yield
    except ModelError as error:
        raise ShardError(f"{error} ({keys})") from error
