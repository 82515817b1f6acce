"""Device batches that get smaller when the device's memory does not hold them."""

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


class Batches:
    """Cuts work into batches of at most `size`, and remembers the size that fits."""

    def __init__(self, what: str, size: int):
        self._what = what
        self.size = size

    def run(self, work: Callable[[Batch], Result], rows: Batch) -> list[Result]:
        """The results of consecutive parts of `rows`. A part that runs out of device memory is halved, down to one row.

        Raises torch.OutOfMemoryError when one row is too much.
        """
        results = []
        start = 0
        while start < len(rows):
            part = rows[start : start + self.size]
            result = _unless_out_of_memory(work, part)
            if result is None:
                self.size = len(part) // 2
                log.warning("out of device memory with %d %s: from now on %d at once", len(part), self._what, self.size)
                continue
            results.append(result)
            start += len(part)
        return results


def _unless_out_of_memory(work: Callable[[Batch], Result], part: Batch) -> Result | None:
    try:
        return work(part)
    except torch.OutOfMemoryError:
        if len(part) == 1:
            raise
    free_memory()  # only now, when the exception no longer holds the failed attempt's tensors
    return None
