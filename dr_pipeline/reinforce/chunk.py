"""Chunks: as many samples as fill a device batch with their views."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dr_pipeline.networks.images import host_tensor
from dr_pipeline.reinforce.prepare import Drawn, Prepared, Skipped


@dataclass(frozen=True)
class Chunk:
    """Neighbouring samples of a shard, their pixels stacked for the device."""

    outcomes: list[Drawn | Skipped]
    """In the order of the shard, those that are left out among them."""
    views_BHWC: torch.Tensor
    """uint8 views of all samples, sample by sample."""
    squares: dict[int, torch.Tensor]
    """The samples' central squares by side, uint8 [S, side, side, 3]."""

    @property
    def drawn(self) -> list[Drawn]:
        """The samples that the models see."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Drawn)]

    @property
    def keys(self) -> str:
        """For errors: the first and the last key."""
        return f"{self.drawn[0].sample.key} … {self.drawn[-1].sample.key}"


def in_chunks(outcomes: Iterable[Prepared | Skipped], num_samples: int) -> Iterator[list[Prepared | Skipped]]:
    """Lists that hold `num_samples` prepared samples each, the last one fewer; it may hold none."""
    chunk: list[Prepared | Skipped] = []
    room = num_samples
    for outcome in outcomes:
        chunk.append(outcome)
        room -= isinstance(outcome, Prepared)
        if room == 0:
            yield chunk
            chunk, room = [], num_samples
    if chunk:
        yield chunk


def stack(outcomes: list[Prepared | Skipped], device: torch.device) -> Chunk:
    """Lay the samples' pixels side by side, in memory from which the device can fetch them while it is busy."""
    kept = [outcome.drawn if isinstance(outcome, Prepared) else outcome for outcome in outcomes]
    prepared = [outcome for outcome in outcomes if isinstance(outcome, Prepared)]
    if not prepared:
        return Chunk(kept, torch.empty(0), {})
    views_BHWC = host_tensor(np.concatenate([sample.views_NHWC for sample in prepared]), device)
    squares = {
        side: host_tensor(np.stack([sample.squares[side] for sample in prepared]), device)
        for side in prepared[0].squares
    }
    return Chunk(kept, views_BHWC, squares)
