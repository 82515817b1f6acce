"""Chunks: as many samples as fill a device batch with their views."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from dr_pipeline.dataset.sample import IMAGE, TEXT, Column, Sample
from dr_pipeline.errors import ModelError, ShardError
from dr_pipeline.models.ensemble import Started
from dr_pipeline.networks.images import host_tensor
from dr_pipeline.reinforce.texts import StartedTexts


@dataclass(eq=False)
class Chunk:
    """Neighbouring samples of a shard, their pixels stacked for the device. Each stage fills in what it makes."""

    samples: list[Sample]
    """In the order of the shard, with those that are left out."""
    views_BHWC: torch.Tensor
    """uint8 views of all samples, sample by sample."""
    squares: dict[int, torch.Tensor]
    """The samples' central squares by side, uint8 [S, side, side, 3]."""
    started_views: list[Started] = field(default_factory=list)
    started_texts: StartedTexts = field(default_factory=StartedTexts)

    @property
    def kept(self) -> list[Sample]:
        """The samples that the models see."""
        return [sample for sample in self.samples if not sample.skip]

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Turn a ModelError into a ShardError with the first and the last key."""
        try:
            yield
        except ModelError as error:
            raise ShardError(f"{error} (samples {self.kept[0].key} … {self.kept[-1].key})") from error

    def finish(self) -> list[Sample]:
        """Wait for the device, and fill in the columns. Raises ShardError, with the keys, on bad vectors."""
        if not self.kept:
            return self.samples
        with self.named_in_errors():
            batches = [batch.finish() for batch in self.started_views]
            for teacher in batches[0]:
                emb_BD = np.concatenate([batch[teacher] for batch in batches])
                emb_SND = emb_BD.reshape(len(self.kept), -1, emb_BD.shape[-1])
                for sample, emb_ND in zip(self.kept, emb_SND, strict=True):
                    sample.columns[Column(teacher, IMAGE)] = emb_ND
            for sample in self.kept:
                for of, texts in {TEXT: [sample.caption], **sample.synthetic}.items():
                    for teacher, emb_TD in self.started_texts.embeddings(texts).items():
                        sample.columns[Column(teacher, of)] = emb_TD
        return self.samples


def in_chunks(samples: Iterable[Sample], num_samples: int) -> Iterator[list[Sample]]:
    """Lists with `num_samples` samples that are not left out, the last one with fewer, maybe none."""
    chunk: list[Sample] = []
    room = num_samples
    for sample in samples:
        chunk.append(sample)
        room -= not sample.skip
        if room == 0:
            yield chunk
            chunk, room = [], num_samples
    if chunk:
        yield chunk


def stack(samples: list[Sample], device: torch.device) -> Chunk:
    """Lay the samples' pixels side by side, in memory from which the device can fetch them while it is busy."""
    kept = [sample for sample in samples if not sample.skip]
    if not kept:
        return Chunk(samples, torch.empty(0), {})
    views = [sample.views_NHWC for sample in kept if sample.views_NHWC is not None]
    squares = {
        side: host_tensor(np.stack([sample.squares[side] for sample in kept]), device) for side in kept[0].squares
    }
    views_BHWC = host_tensor(np.concatenate(views), device) if views else torch.empty(0)
    chunk = Chunk(samples, views_BHWC, squares)
    for sample in kept:  # the chunk has their pixels now
        sample.views_NHWC, sample.squares = None, {}
    return chunk
