"""Samples on their way through the device: each model has batches of its own, filled from all samples of a shard.

Shapes: R views of a sample, or captions of one kind; D dims of a teacher; B images of H = W pixels, C = 3 channels.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch

from dr_pipeline.dataset.sample import Column, Sample
from dr_pipeline.errors import ModelError, ShardError
from dr_pipeline.models.ensemble import PendingColumns
from dr_pipeline.networks.device import Precision, free_memory
from dr_pipeline.networks.images import host_tensor
from dr_pipeline.networks.launching import device_turn, make_stream
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.reinforce.threads import Turn

log = logging.getLogger(__name__)

Item = TypeVar("Item")


class Sliceable(Protocol):
    """A list or a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Self: ...


Batch = TypeVar("Batch", bound=Sliceable)
Result = TypeVar("Result")


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


class DeviceBatches:
    """Cuts work into batches of at most `size` rows, and remembers the size that fits."""

    def __init__(self, what: str, size: int):
        """`what`: the rows in words, for the log."""
        self._what = what
        self.size = size

    def run(self, work: Callable[[Batch], Result], rows: Batch) -> list[Result]:
        """Call `work` with consecutive batches of `rows` → its results, in order.

        A batch that runs out of device memory is halved, and the later ones are no larger. Raises
        torch.OutOfMemoryError where one row is too much.
        """
        results = []
        start = 0
        while start < len(rows):
            batch = rows[start : start + self.size]
            try:
                results.append(work(batch))
                start += len(batch)
                continue
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
            free_memory()  # only here, where the exception no longer holds the failed batch's tensors
            self.size = len(batch) // 2
            log.warning("out of device memory with %d %s: from now on %d at once", len(batch), self._what, self.size)
        return results


class SampleStage:
    """A stage whose models see whole samples, as many at once as fill the device's batch; one shard at a time has it.

    Its work lies on a stream of its own, so that the device's other work goes on while a model waits.
    """

    def __init__(self, name: str, device: torch.device, precision: Precision, batch_size: int):
        """`name`: the stage's in a shard's stats."""
        self._name, self._device, self._precision = name, device, precision
        self.batch_size = batch_size
        self._turn = Turn()
        self._device_turn = device_turn(device)
        self._stream = make_stream(device)

    def in_batches(
        self,
        items: Iterable[Item],
        sample_of: Callable[[Item], Sample],
        work: Callable[[list[Sample]], None],
        stats: ShardStats,
    ) -> Iterator[Item]:
        """Yield a shard's items once `work` is done with their samples, or these are to be skipped.

        Raises ShardError, naming the keys.
        """
        with self._turn.of(items, stats) as items:
            for group in in_groups(items, lambda item: not sample_of(item).skip, self.batch_size):
                kept = [sample for sample in map(sample_of, group) if not sample.skip]
                if kept:  # the stream, too, for the work alone: between items the thread is another stage's
                    stream = torch.cuda.stream(self._stream)
                    with naming(keys_of(kept)), self._device_turn, stream, stats.stage(self._name):
                        work(kept)
                yield from group

    def squares(self, samples: Sequence[Sample], side: int) -> torch.Tensor:
        """The samples' central squares of so many pixels on the device, uint8 [B, H, W, C]."""
        on_host_BHWC = host_tensor(np.stack([sample.squares[side] for sample in samples]), self._device)
        return on_host_BHWC.to(self._device, non_blocking=True)
