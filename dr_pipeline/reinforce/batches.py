"""Batches that get smaller when the device's memory does not hold them."""

import logging
from collections.abc import Callable
from typing import Protocol, Self, TypeVar

import torch

from dr_pipeline.networks.device import free_memory

log = logging.getLogger(__name__)


class Sliceable(Protocol):
    """A list or a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Self: ...


Batch = TypeVar("Batch", bound=Sliceable)
Result = TypeVar("Result")


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
