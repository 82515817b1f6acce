"""A chunk: consecutive samples whose views fill one device batch.

Shapes: S samples that the models see, N views of each, B = S·N views, T captions of one kind, D dims of a teacher,
H = W pixels, C = 3 channels.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from dr_pipeline.dataset.sample import IMAGE, TEXT, Column, Sample
from dr_pipeline.errors import ModelError, ShardError
from dr_pipeline.models.ensemble import PendingColumns
from dr_pipeline.networks.images import host_tensor


@dataclass(eq=False)
class Chunk:
    """Samples with their pixels stacked for the device, and what the device has been told to compute of them."""

    samples: list[Sample]
    """In the order of the shard, the skipped ones among them."""
    views_BHWC: torch.Tensor
    """uint8 views, sample by sample."""
    squares: dict[int, torch.Tensor]
    """Side in pixels → the central squares of that size, uint8 [S, side, side, 3]."""
    pending_views: list[PendingColumns] = field(default_factory=list)
    """The batches of views, in order."""
    pending_texts: dict[str, tuple[PendingColumns, int]] = field(default_factory=dict)
    """Text → its batch of texts, and its row there."""

    @property
    def kept(self) -> list[Sample]:
        """The samples that the models see."""
        return [sample for sample in self.samples if not sample.skip]

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Turn a ModelError into a ShardError that names the first and the last key."""
        try:
            yield
        except ModelError as error:
            raise ShardError(f"{error} (samples {self.kept[0].key} … {self.kept[-1].key})") from error

    def finish(self) -> list[Sample]:
        """Wait for the device, fill in the columns → all samples. Raises ShardError, with the keys, on bad vectors."""
        if not self.kept:
            return self.samples
        with self.named_in_errors():
            batches = [batch.finish() for batch in self.pending_views]
            for teacher in batches[0]:
                emb_BD = np.concatenate([batch[teacher] for batch in batches])
                for sample, emb_ND in zip(self.kept, np.split(emb_BD, len(self.kept)), strict=True):
                    sample.columns[Column(teacher, IMAGE)] = emb_ND
            for sample in self.kept:
                for of, texts in {TEXT: [sample.caption], **sample.synthetic}.items():
                    rows = [(batch.finish(), row) for batch, row in map(self.pending_texts.__getitem__, texts)]
                    for teacher in rows[0][0]:
                        emb_TD = np.stack([batch[teacher][row] for batch, row in rows])
                        sample.columns[Column(teacher, of)] = emb_TD
        return self.samples


def in_chunks(samples: Iterable[Sample], num_samples: int) -> Iterator[list[Sample]]:
    """Lists of samples, `num_samples` of each not skipped; in the last one fewer, or none."""
    chunk: list[Sample] = []
    num_missing = num_samples
    for sample in samples:
        chunk.append(sample)
        num_missing -= not sample.skip
        if num_missing == 0:
            yield chunk
            chunk, num_missing = [], num_samples
    if chunk:
        yield chunk


def stack(samples: list[Sample], device: torch.device) -> Chunk:
    """Move the samples' pixels into arrays of host memory that the device can copy while it computes."""
    kept = [sample for sample in samples if not sample.skip]
    if not kept:
        return Chunk(samples, torch.empty(0), {})
    views = [sample.views_NHWC for sample in kept if sample.views_NHWC is not None]
    views_BHWC = host_tensor(np.concatenate(views), device) if views else torch.empty(0)
    sides = kept[0].squares
    squares = {side: host_tensor(np.stack([sample.squares[side] for sample in kept]), device) for side in sides}
    for sample in kept:  # free them: the chunk has the pixels now
        sample.views_NHWC, sample.squares = None, {}
    return Chunk(samples, views_BHWC, squares)
