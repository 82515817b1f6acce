"""The teachers' work on a shard: its views in batches, and its texts in batches of their own."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch

from dr_pipeline.dataset.sample import IMAGE, Sample
from dr_pipeline.models.ensemble import Ensemble, PendingColumns, TextBatch
from dr_pipeline.networks.tokenizer import truncate_text
from dr_pipeline.reinforce.in_flight import DeviceBatches, InFlight, Launched, Row, in_groups, keys_of, naming
from dr_pipeline.reinforce.rendering import Launch, Renderer
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.reinforce.threads import Turn

_MOST_BATCHES_A_CHUNK = 4
_FULL = 0.95
_BATCHES_A_POOL = 4
_LEAST_TEXTS = 4
"""A sample counts for so many at least, or a pool would hold thousands of samples."""


class Chunk:
    """Consecutive samples of a shard, the skipped ones among them, whose views fill batches of the device."""

    def __init__(self, samples: list[Sample], renderer: Renderer):
        self.samples = samples
        self.kept = [sample for sample in samples if not sample.skip]
        """Those that the models see."""
        self.launch: Launch | None = renderer.pack(self.kept) if self.kept else None
        """Of their views; None where there are none."""


def samples_per_chunk(view_batch: int, num_views: int) -> int:
    """How many samples fill batches of views: the fewest whose last batch is nearly full."""
    counts = [max(1, batches * view_batch // num_views) for batches in range(1, _MOST_BATCHES_A_CHUNK + 1)]
    filled = [count * num_views / (-(-count * num_views // view_batch) * view_batch) for count in counts]
    return next(count for count, share in zip(counts, filled, strict=True) if share >= min(_FULL, max(filled)))


class ViewStage:
    """Embeds the views of chunks."""

    def __init__(self, ensemble: Ensemble, device: torch.device, batch_size: int):
        self._ensemble = ensemble
        self._device = device
        self._batches = DeviceBatches("views", batch_size)
        self.batch_size = batch_size
        self._turn = Turn()

    def run(self, chunks: Iterable[Chunk], stats: ShardStats) -> Iterator[InFlight]:
        """Yield a shard's samples once the device has been told to embed their views.

        Raises ShardError, naming the keys, where a teacher breaks its contract.
        """
        with self._turn.of(chunks, stats) as chunks:
            for chunk in chunks:
                rows: Iterator[Row] = iter(())
                if chunk.launch:
                    keys = keys_of(chunk.kept)
                    with naming(keys), self._ensemble.turn, stats.stage("embed_images"):
                        batches = self._batches.run(self._ensemble.start_images, chunk.launch(self._device))
                    stats.count("views_embedded", sum(map(len, batches)))
                    rows = _rows(batches, keys)
                for sample in chunk.samples:
                    own = {} if sample.skip else {IMAGE: list(islice(rows, len(sample.views)))}
                    yield InFlight(sample, own)


class Pool(NamedTuple):
    """Consecutive samples whose texts fill batches, with each distinct text once, the shortest first."""

    items: list[InFlight]
    texts: list[str]
    batch: TextBatch


class TextStage:
    """Embeds ground-truth and synthetic captions, each distinct text of a pool once: alt-texts and captions repeat."""

    def __init__(self, ensemble: Ensemble, batch_size: int):
        self._ensemble = ensemble
        self._batches = DeviceBatches("texts", batch_size)
        self._pool_size = _BATCHES_A_POOL * batch_size
        self._turn = Turn()

    def pools(self, items: Iterable[InFlight]) -> Iterator[list[InFlight]]:
        """The samples of each pool: several batches, so that texts of about one length come together."""
        return in_groups(items, lambda item: max(_LEAST_TEXTS, sum(map(len, _texts(item).values()))), self._pool_size)

    def tokenize(self, items: list[InFlight], stats: ShardStats) -> Pool:
        """Make tokens of a pool's texts. It needs the host alone, and any thread may do it."""
        distinct = {text for item in items for texts in _texts(item).values() for text in texts}
        # By length, so that a batch pads little. Characters stand for tokens: each teacher has its own tokenizer.
        texts = sorted(distinct, key=lambda text: (len(text), text))
        with stats.stage("tokenize"):
            return Pool(items, texts, self._ensemble.tokenize([truncate_text(text) for text in texts]))

    def run(self, pools: Iterable[Pool], stats: ShardStats) -> Iterator[InFlight]:
        """Yield a shard's samples once the device has been told to embed their texts. Raises ShardError, with keys."""
        with self._turn.of(pools, stats) as pools:
            for items, texts, batch in pools:
                keys = keys_of([item.sample for item in items])
                with naming(keys), self._ensemble.turn, stats.stage("embed_texts"):
                    batches = self._batches.run(self._ensemble.start_texts, batch)
                rows = dict(zip(texts, _rows(batches, keys), strict=True))
                for item in items:
                    item.rows |= {of: [rows[text] for text in own] for of, own in _texts(item).items()}
                    yield item


def _texts(item: InFlight) -> dict[str, list[str]]:
    """What there is to embed: the captions of a sample by kind, none of one that is skipped."""
    sample = item.sample
    return {} if sample.skip else sample.texts


def _rows(batches: Iterable[PendingColumns], keys: str) -> Iterator[Row]:
    """The rows of consecutive batches."""
    for columns in batches:
        launched = Launched(columns, keys)
        yield from (Row(launched, index) for index in range(len(columns)))
