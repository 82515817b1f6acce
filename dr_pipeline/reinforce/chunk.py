"""A chunk: consecutive samples whose views fill batches of the device."""

from dataclasses import dataclass

from dr_pipeline.dataset.sample import Sample
from dr_pipeline.reinforce.rendering import Pixels, Renderer

_MOST_BATCHES = 4
_FULL = 0.95


@dataclass(eq=False)
class Chunk:
    """Samples in the order of the shard, the skipped ones among them."""

    samples: list[Sample]
    pixels: Pixels | None
    """The views' of those that are not skipped; None where all are."""

    @property
    def kept(self) -> list[Sample]:
        """The samples that the models see."""
        return [sample for sample in self.samples if not sample.skip]


def samples_per_chunk(view_batch: int, num_views: int) -> int:
    """How many samples fill batches of views: the fewest whose last batch is nearly full."""
    counts = [max(1, batches * view_batch // num_views) for batches in range(1, _MOST_BATCHES + 1)]
    filled = [count * num_views / (-(-count * num_views // view_batch) * view_batch) for count in counts]
    return next(count for count, share in zip(counts, filled, strict=True) if share >= min(_FULL, max(filled)))


def pack(samples: list[Sample], renderer: Renderer) -> Chunk:
    """The chunk of consecutive samples."""
    kept = [sample for sample in samples if not sample.skip]
    return Chunk(samples, renderer.pack(kept) if kept else None)
