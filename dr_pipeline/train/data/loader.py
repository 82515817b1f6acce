"""Batches from a dataset's shards, made beside the training, resumable to the sample."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dr_pipeline.config.training import TrainJob
from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.train.data.batch import Batch, Tokenizer, collate
from dr_pipeline.train.data.dataset import Dataset
from dr_pipeline.train.data.examples import Example
from dr_pipeline.train.data.order import StreamId
from dr_pipeline.train.data.samples import SampleStream
from dr_pipeline.train.data.stream import Position
from dr_pipeline.train.distributed import Rank

_PREFETCHED_BATCHES = 2  # of each loading process


@dataclass(frozen=True)
class _Form:
    """What a batch is made with."""

    tokenizer: Tokenizer
    image_size: int
    batch_size: int


class Loader:
    """Endless batches of one rank: epoch follows epoch, and a batch may hold the end of one and the start of the next.

    Iterating again goes on behind the last batch that was handed out.
    """

    def __init__(
        self, job: TrainJob, dataset: Dataset, tokenizer: Tokenizer, image_size: int, batch_size: int, rank: Rank
    ):
        """`batch_size` counts this rank's samples alone."""
        self._job, self._dataset, self._rank = job, dataset, rank
        self._form = _Form(tokenizer, image_size, batch_size)
        self._positions = [Position()] * max(1, job.data.workers)
        self._next = 0

    def __iter__(self) -> Iterator[Batch]:
        """Raises the PipelineError that stopped a loading process."""
        for item in self._data_loader():
            if isinstance(item, PipelineError):
                raise item
            self._positions[self._next] = item.position
            self._next = (self._next + 1) % len(self._positions)
            yield item.batch

    def state(self) -> dict[str, Any]:
        """Where this rank stands behind the last batch that was handed out, as plain JSON."""
        return {
            "streams": self._num_streams,
            "next": self._next,
            "positions": [asdict(position) for position in self._positions],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises ConfigError where the data were dealt to another number of streams."""
        if state["streams"] != self._num_streams:
            raise ConfigError(
                f"the checkpoint's data were dealt to {state['streams']} loading processes (ranks × data.workers), now "
                f"there are {self._num_streams}: continue with as many ranks and data.workers"
            )
        self._positions = [Position(**position) for position in state["positions"]]
        self._next = state["next"]

    @property
    def _num_streams(self) -> int:
        return self._rank.world_size * len(self._positions)

    def _data_loader(self) -> DataLoader:
        workers = self._job.data.workers
        first = self._rank.index * len(self._positions)
        starts = [
            (StreamId(first + index, self._num_streams), position) for index, position in enumerate(self._positions)
        ]
        # Torch's round begins with its first process: that one gets the stream whose turn it is.
        starts = starts[self._next :] + starts[: self._next]
        batches = _Batches(self._job, self._dataset, self._form, starts)
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=_PREFETCHED_BATCHES if workers else None,
            multiprocessing_context=_forkserver(self._form.tokenizer) if workers else None,
        )


def _forkserver(tokenizer: Tokenizer) -> BaseContext:
    """Processes forked from a clean one that has imported what they need.

    A fork of the training process would inherit locks of torch's and fsspec's threads without the threads; spawned
    processes would each import torch anew.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, type(tokenizer).__module__])
    return context


def _end_with_the_trainer() -> None:
    """End this process, which loads for another one, when that is gone, however it went.

    A killed trainer cannot stop what loads for it, and torch watches the process that a loader was forked from: the
    fork server, which in turn ends when no loader is left.
    """
    trainer = multiprocessing.parent_process()
    assert trainer is not None, "only a process that multiprocessing has started"

    def wait() -> None:
        trainer.join()
        os._exit(1)

    threading.Thread(target=wait, name="trainer's end", daemon=True).start()


@dataclass(frozen=True)
class _Loaded:
    """A batch, and where its stream stands behind it."""

    batch: Batch
    position: Position

    def pin_memory(self) -> "_Loaded":
        return replace(self, batch=self.batch.pin_memory())


class _Batches(IterableDataset):
    """The work of the loading processes: process i reads the i-th stream."""

    def __init__(self, job: TrainJob, dataset: Dataset, form: _Form, starts: list[tuple[StreamId, Position]]):
        self._job, self._dataset, self._form, self._starts = job, dataset, form, starts
        self._environment = dict(os.environ)

    def __iter__(self) -> Iterator[_Loaded | PipelineError]:
        """A PipelineError is the last item: raised, it would reach the training process as a traceback's text."""
        worker = get_worker_info()
        if worker:
            _end_with_the_trainer()
            # Else it is that of the fork server's first use: without credentials that were set since.
            os.environ.update(self._environment)
        stream, position = self._starts[worker.id if worker else 0]
        try:
            yield from self._loaded(stream, position)
        except PipelineError as error:
            yield error

    def _loaded(self, stream: StreamId, position: Position) -> Iterator[_Loaded]:
        samples = SampleStream(self._job, self._dataset, self._form.image_size, stream)
        examples: list[Example] = []
        for example, behind in samples.examples(position):
            examples.append(example)
            if len(examples) == self._form.batch_size:
                yield _Loaded(collate(examples, self._form.tokenizer, samples.take_skipped()), behind)
                examples.clear()
