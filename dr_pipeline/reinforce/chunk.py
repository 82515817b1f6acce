"""A chunk: consecutive samples whose views fill batches of the device, with their pixels in memory that it can copy.

Shapes: B views of all samples, H = W pixels, C = 3 channels.
"""

from dataclasses import dataclass

import numpy as np
import torch

from dr_pipeline.dataset.sample import Sample
from dr_pipeline.networks.images import host_tensor

_MOST_BATCHES = 4
_FULL = 0.95


@dataclass(eq=False)
class Chunk:
    """Samples in the order of the shard, the skipped ones among them."""

    samples: list[Sample]
    views_BHWC: torch.Tensor
    """uint8 views of those that are not skipped, sample by sample."""

    @property
    def kept(self) -> list[Sample]:
        """The samples that the models see."""
        return [sample for sample in self.samples if not sample.skip]


def samples_per_chunk(view_batch: int, num_views: int) -> int:
    """How many samples fill batches of views: the fewest whose last batch is nearly full."""
    counts = [max(1, batches * view_batch // num_views) for batches in range(1, _MOST_BATCHES + 1)]
    filled = [count * num_views / (-(-count * num_views // view_batch) * view_batch) for count in counts]
    return next(count for count, share in zip(counts, filled, strict=True) if share >= min(_FULL, max(filled)))


def pack(samples: list[Sample], device: torch.device) -> Chunk:
    """Move the samples' views into one array, which the device copies while it computes."""
    views = [sample.views_NHWC for sample in samples if not sample.skip]
    for sample in samples:  # free them: the chunk has the pixels now
        sample.views_NHWC = None
    return Chunk(samples, host_tensor(np.concatenate(views), device) if views else torch.empty(0))
