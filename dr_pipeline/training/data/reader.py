"""The samples that one loading process reads: shard after shard, shuffled block by block, from any position on.

Which they are, and in which order, is a pure function of seed, epoch and process. Together the loading processes of all
ranks read each sample once an epoch.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from dr_pipeline import codecs
from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import ShardError
from dr_pipeline.storage import Storage
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


@dataclass(frozen=True)
class Position:
    """Where a loading process stands: at a block of neighbouring samples, of which some are used."""

    epoch: int = 0
    shard: int = 0
    """The block's first shard: its place in the process's list of the epoch."""
    sample: int = 0
    """The block's first sample: its place in that shard."""
    used: int = 0
    """How many samples of the block, in their shuffled order, are used."""


class SampleReader:
    """The samples of one loading process. A position is found again by reading at most one block twice."""

    def __init__(
        self,
        job: TrainJob,
        uris: tuple[str, ...],
        loader: LoaderId,
        finished: Callable[[str, int], None],
        num_earlier: int,
    ):
        """`finished` is called with a shard and its number of samples when all that are read of it are used.

        `num_earlier`: how many of the samples before it each one is given, for views that are mixed with theirs.
        """
        self._job, self._uris, self._loader, self._finished = job, uris, loader, finished
        self._num_earlier = num_earlier

    def epoch(self, position: Position) -> Iterator[tuple[str, Sample, Position]]:
        """The samples from a position to its epoch's end, each with its shard and the position behind it.

        Raises ShardError or StorageError naming the shard that cannot be read.
        """
        samples = self._in_stored_order(position)
        used = position.used
        while block := list(islice(samples, self._job.data.shuffle_buffer)):
            start = Position(position.epoch, *block[0][:2])
            rng = Stream(self._job.seed, "block", start.epoch, self._loader.index, start.shard, start.sample)
            ended = [(uri, num_samples) for _, _, uri, _, num_samples in block if num_samples is not None]
            waiting = deque((uri, sample) for _, _, uri, sample, _ in shuffled(block, rng))
            block.clear()  # whoever takes a sample frees its memory
            for _ in range(used):
                waiting.popleft()
            while waiting:
                used += 1
                yield *waiting.popleft(), replace(start, used=used)
            used = 0
            for uri, num_samples in ended:
                self._finished(uri, num_samples)

    def _in_stored_order(self, position: Position) -> Iterator[tuple[int, int, str, Sample, int | None]]:
        """Number of the shard in the epoch's list, place in the shard, URI, sample, and size of the shard or None.

        The size comes with the last sample that this process takes of the shard.
        """
        data = self._job.data
        todo = visits(len(self._uris), position.epoch, self._loader, self._job.seed, data.sampling)
        for number, visit in list(enumerate(todo))[position.shard :]:
            uri = self._uris[visit.shard]
            first = position.sample if number == position.shard else 0
            last: Sample | None = None
            num_samples = first
            earlier: deque[Sample] = deque(maxlen=self._num_earlier)
            for sample in read_shard(self._job, uri, max(0, first - self._num_earlier)):
                num_samples = sample.index + 1
                sample.earlier = {one.index: one for one in earlier}
                if self._num_earlier:
                    # Whoever uses the sample takes its members off it, but not off this copy.
                    earlier.append(replace(sample, members=dict(sample.members), earlier={}))
                if sample.index >= first and visit.takes(sample.index):
                    if last:
                        yield number, last.index, uri, last, None
                    last = sample
            if last:
                yield number, last.index, uri, last, num_samples


def read_shard(job: TrainJob, uri: str, first: int = 0) -> Iterator[Sample]:
    """The samples of a shard from place `first` on, with the members that the job needs.

    Raises ShardError or StorageError naming the shard when it cannot be read.
    """
    unread = () if job.reads_embeddings or job.reads_probabilities else tuple(f".{ext}" for ext in codecs.extensions())
    try:
        with Storage(job.data.storage).open(uri) as file:
            for sample in read_samples(file, lambda name: not name.lower().endswith(unread)):
                if sample.index >= first:
                    yield sample
    except ShardError as error:
        raise ShardError(f"{uri}: {error}; dr-pipeline verify shows all that is wrong") from error
    except FileNotFoundError as error:
        raise ShardError(f"{uri}: no such shard any more") from error


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
