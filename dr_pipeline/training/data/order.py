"""Which samples a loading process reads, and in which order: a pure function of seed, epoch and process.

Together the loading processes of all ranks read each sample once an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from dr_pipeline.views.seeding import Stream

Item = TypeVar("Item")


@dataclass(frozen=True)
class LoaderId:
    """One of the loading processes of all ranks, which share the data."""

    index: int
    count: int


class Visit(NamedTuple):
    """The samples of one shard whose position in it is `first` modulo `step`."""

    shard: int
    first: int = 0
    step: int = 1

    def takes(self, sample: int) -> bool:
        """Whether the sample at this position in the shard is among them."""
        return sample % self.step == self.first


def visits(
    num_shards: int, epoch: int, loader: LoaderId, seed: int, sampling: Literal["epoch", "resampled"]
) -> list[Visit]:
    """The shards that one loading process reads in one epoch.

    epoch: whole shards are dealt in turn; those left after the last full round are read by all processes, which share
    their samples. resampled: as many shards as the process's share, drawn with replacement.
    """
    if sampling == "resampled":
        draws = Stream(seed, "resampled shards", epoch, loader.index).uniforms(-(-num_shards // loader.count))
        return [Visit(int(draw * num_shards)) for draw in draws]
    order = shuffled(range(num_shards), Stream(seed, "shards", epoch))
    num_whole = num_shards - num_shards % loader.count
    whole = [Visit(shard) for shard in order[loader.index : num_whole : loader.count]]
    return whole + [Visit(shard, loader.index, loader.count) for shard in order[num_whole:]]


def shuffled(items: Sequence[Item], rng: Stream) -> list[Item]:
    """The items in a random order."""
    return [items[index] for index in np.argsort(rng.uniforms(len(items)), kind="stable")]
