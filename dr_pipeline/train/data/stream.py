"""The samples of one loading process: shard after shard, shuffled block by block, from any position on."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from dr_pipeline import codecs
from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import ShardError
from dr_pipeline.storage import Storage
from dr_pipeline.train.data.order import StreamId, Visit, shuffled, visits
from dr_pipeline.views.seeding import Stream


@dataclass(frozen=True)
class Raw:
    """One sample as it lies in its shard."""

    uri: str
    sample: Sample
    num_samples: int | None
    """How many the shard holds, where this is the last that the stream takes of it."""


@dataclass(frozen=True)
class Position:
    """Where a stream stands: at a block of neighbouring samples, of which some are behind."""

    epoch: int = 0
    shard: int = 0
    """The block's first shard: its place in the stream's list of the epoch."""
    sample: int = 0
    """The block's first sample: its place in that shard."""
    used: int = 0
    """How many samples of the block, in their shuffled order, are behind."""


@dataclass(frozen=True)
class Block:
    """Neighbouring samples of a stream in shuffled order. Who takes them out frees their memory."""

    start: Position
    samples: deque[Raw]


class ShardStream:
    """The raw samples of one stream. A position is found again by reading at most one block twice."""

    def __init__(self, job: TrainJob, uris: tuple[str, ...], stream: StreamId):
        self._job, self._uris, self._stream = job, uris, stream
        self._storage = Storage(job.data.storage)
        self._unread = () if job.reads_embeddings else tuple(f".{ext}" for ext in codecs.extensions())

    def blocks(self, position: Position) -> Iterator[Block]:
        """The blocks from a position's own to the end of its epoch.

        Raises ShardError or StorageError naming the shard that cannot be read.
        """
        samples = self._numbered(position)
        while numbered := list(islice(samples, self._job.data.shuffle_buffer)):
            number, first = numbered[0]
            start = Position(position.epoch, number, first.sample.index)
            stream = Stream(self._job.seed, "block", start.epoch, self._stream.index, start.shard, start.sample)
            block = Block(start, deque(raw for _, raw in shuffled(numbered, stream)))
            numbered.clear()
            yield block

    def shard(self, uri: str, first: int = 0) -> Iterator[Raw]:
        """The samples of a shard from place `first` on. Raises ShardError or StorageError naming the shard."""
        try:
            yield from self._read(uri, first)
        except ShardError as error:
            raise ShardError(f"{uri}: {error}; dr-pipeline verify shows all that is wrong") from error
        except FileNotFoundError as error:
            raise ShardError(f"{uri}: no such shard any more") from error

    def _numbered(self, position: Position) -> Iterator[tuple[int, Raw]]:
        """The samples in stored order, each with its shard's place in the epoch's list."""
        data = self._job.data
        todo = visits(len(self._uris), position.epoch, self._stream, self._job.seed, data.sampling)
        for number in range(position.shard, len(todo)):
            first = position.sample if number == position.shard else 0
            for raw in self._visit(todo[number], first):
                yield number, raw

    def _visit(self, visit: Visit, first: int) -> Iterator[Raw]:
        """The visit's samples from place `first` on; the last of them knows the shard's size."""
        last: Raw | None = None
        num_samples = first
        for raw in self.shard(self._uris[visit.shard], first):
            num_samples = raw.sample.index + 1
            if not visit.takes(raw.sample.index):
                continue
            if last:
                yield last
            last = raw
        if last:
            yield replace(last, num_samples=num_samples)

    def _read(self, uri: str, first: int) -> Iterator[Raw]:
        with self._storage.open(uri) as stream:
            for sample in read_samples(stream, self._wanted):
                if sample.index >= first:
                    yield Raw(uri, sample, None)

    def _wanted(self, name: str) -> bool:
        return not name.lower().endswith(self._unread)
