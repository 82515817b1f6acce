"""Batches from a dataset's shards, made beside the training, resumable to the sample."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.training.data.batch import Batch, Tokenizer, collate
from dr_pipeline.training.data.reader import LoaderId, Position
from dr_pipeline.training.data.rendering import StudentViews
from dr_pipeline.training.data.samples import SelectedSamples
from dr_pipeline.training.data.training_set import TrainingSet
from dr_pipeline.training.distributed import Rank

_PREFETCHED_BATCHES = 2  # of each loading process


class Loader:
    """Endless batches of one rank: epoch follows epoch, and a batch may hold the end of one and the start of the next.

    Iterating again goes on behind the last batch that was handed out.
    """

    def __init__(
        self,
        job: TrainJob,
        training_set: TrainingSet,
        tokenizer: Tokenizer | None,
        views: StudentViews,
        batch_size: int,
        rank: Rank,
    ):
        """`tokenizer`: None where the job takes no captions; `batch_size` counts this rank's samples alone."""
        self._num_workers, self._rank, self._tokenizer = job.data.workers, rank, tokenizer
        self._batches = partial(_batches, job, training_set, tokenizer, views, batch_size)
        self._positions = [Position()] * max(1, job.data.workers)
        self._num_loaders = rank.world_size * len(self._positions)
        self._next = 0

    def __iter__(self) -> Iterator[Batch]:
        """Raises the PipelineError that stopped a loading process."""
        first = self._rank.index * len(self._positions)
        shares = [
            (LoaderId(first + index, self._num_loaders), position) for index, position in enumerate(self._positions)
        ]
        loading = DataLoader(
            # Torch's round begins with its first process: that one gets the share whose turn it is.
            _Shares(self._batches, shares[self._next :] + shares[: self._next]),
            batch_size=None,
            num_workers=self._num_workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=_PREFETCHED_BATCHES if self._num_workers else None,
            multiprocessing_context=_forkserver(self._tokenizer) if self._num_workers else None,
        )
        for item in loading:
            if isinstance(item, PipelineError):
                raise item
            batch, self._positions[self._next] = item
            self._next = (self._next + 1) % len(self._positions)
            yield batch

    def state(self) -> dict[str, Any]:
        """Where this rank stands behind the last batch that was handed out, as plain JSON."""
        return {
            "loaders": self._num_loaders,
            "next": self._next,
            "positions": [asdict(position) for position in self._positions],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises ConfigError where the data were shared by more or fewer processes."""
        if state["loaders"] != self._num_loaders:
            raise ConfigError(
                f"the checkpoint's data were dealt to {state['loaders']} loading processes (ranks × data.workers), now "
                f"there are {self._num_loaders}: continue with as many ranks and data.workers"
            )
        self._positions = [Position(**position) for position in state["positions"]]
        self._next = state["next"]


class _Shares(IterableDataset):
    """What torch runs in the loading processes of one rank: process i makes the batches of the i-th share."""

    def __init__(
        self,
        batches: Callable[[LoaderId, Position], Iterator[tuple[Batch, Position]]],
        shares: list[tuple[LoaderId, Position]],
    ):
        self._batches, self._shares = batches, shares
        self._environment = dict(os.environ)

    def __iter__(self) -> Iterator[tuple[Batch, Position] | PipelineError]:
        """A PipelineError is the last item: raised, it would reach the training process as a traceback's text."""
        worker = get_worker_info()
        if worker:
            _end_with_the_trainer()
            # Else it is that of the fork server's first use: without credentials that were set since.
            os.environ.update(self._environment)
        try:
            yield from self._batches(*self._shares[worker.id if worker else 0])
        except PipelineError as error:
            yield error


def _batches(
    job: TrainJob,
    training_set: TrainingSet,
    tokenizer: Tokenizer | None,
    views: StudentViews,
    batch_size: int,
    loader: LoaderId,
    position: Position,
) -> Iterator[tuple[Batch, Position]]:
    """The batches of one loading process from a position on, each with the position behind it."""
    source = SelectedSamples(job, training_set, views.prepare, loader)
    samples: list[Sample] = []
    for sample, behind in source.read(position):
        samples.append(sample)
        if len(samples) == batch_size:
            pixels = views.pack(samples)
            yield collate(samples, pixels, job.caption_weights, tokenizer, source.take_skipped()), behind
            samples.clear()


def _forkserver(tokenizer: Tokenizer | None) -> BaseContext:
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
