"""Which samples each loading process reads, and in which order: a pure function of the seed, the epoch and the stream.

Every process of every rank reads one stream; together the streams of an epoch hold each sample exactly once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from dr_pipeline.views.seeding import Stream

Item = TypeVar("Item")


@dataclass(frozen=True)
class StreamId:
    """One of the streams that share the data."""

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
    num_shards: int, epoch: int, stream: StreamId, seed: int, sampling: Literal["epoch", "resampled"]
) -> list[Visit]:
    """The shards of one stream in one epoch.

    epoch: whole shards are dealt in turn; what is left after the last full round is read by every stream, each its own
    samples of it. resampled: as many shards as the stream's share, drawn with replacement.
    """
    if sampling == "resampled":
        draws = Stream(seed, "resampled shards", epoch, stream.index).uniforms(-(-num_shards // stream.count))
        return [Visit(int(draw * num_shards)) for draw in draws]
    order = shuffled(range(num_shards), Stream(seed, "shards", epoch))
    num_whole = num_shards - num_shards % stream.count
    whole = [Visit(shard) for shard in order[stream.index : num_whole : stream.count]]
    return whole + [Visit(shard, stream.index, stream.count) for shard in order[num_whole:]]


def shuffled(items: Sequence[Item], stream: Stream) -> list[Item]:
    """The items in a random order."""
    return [items[index] for index in np.argsort(stream.uniforms(len(items)), kind="stable")]
