"""Scores of samples, before any view is made: a sample whose score is outside of a scorer's thresholds is left out."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

import torch

from dr_pipeline.config.cards import ScorerCard
from dr_pipeline.dataset.sample import FILTERED, Sample
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.models.precision import ReadyScorer
from dr_pipeline.models.protocol import ImageScorer, ImageTextScorer
from dr_pipeline.models.scores import scores_of
from dr_pipeline.networks.device import Precision, precision_context
from dr_pipeline.networks.tokenizer import truncate_text
from dr_pipeline.reinforce.in_flight import DeviceBatches, SampleStage
from dr_pipeline.reinforce.stats import ShardStats


class ScoreStage(SampleStage):
    """The job's scorers, in order: what one of them filters, those behind it do not see."""

    def __init__(self, scorers: Sequence[ReadyScorer], device: torch.device, precision: Precision, batch_size: int):
        super().__init__("score", device, precision, batch_size)
        self._scorers = [(ready, DeviceBatches("samples to score", batch_size)) for ready in scorers]

    @property
    def square_sides(self) -> list[int]:
        """The sizes in pixels of the central squares that the scorers see."""
        scorers = [ready.scorer for ready, _ in self._scorers]
        return sorted({one.spec.image_size for one in scorers if isinstance(one, ImageTextScorer | ImageScorer)})

    def run(self, samples: Iterable[Sample], stats: ShardStats) -> Iterator[Sample]:
        """Yield a shard's samples once they are scored, or to be skipped. Raises ShardError, naming the keys."""
        return self.in_batches(samples, lambda sample: sample, self.score, stats)

    def score(self, samples: Sequence[Sample]) -> None:
        """Fill in the scores, and the `skip` of what is filtered, which holds nothing else then. Raises ModelError."""
        for ready, batches in self._scorers:
            kept = [sample for sample in samples if not sample.skip]
            scores = chain.from_iterable(batches.run(partial(self._scores, ready), kept))
            for sample, score in zip(kept, scores, strict=True):
                sample.scores[ready.card.name] = score
                sample.skip = _verdict(ready.card, score)
        for sample in samples:
            sample.squares = {}
            if sample.skip:
                sample.members = {}

    def _scores(self, ready: ReadyScorer, samples: Sequence[Sample]) -> list[float]:
        """The scores of one batch."""
        squares_BHWC = None
        if isinstance(ready.scorer, ImageTextScorer | ImageScorer):
            squares_BHWC = self.squares(samples, ready.scorer.spec.image_size)
        texts = [truncate_text(sample.caption) for sample in samples]
        with torch.inference_mode(), precision_context(self._device, self._precision, ready.needs_autocast):
            return scores_of(ready.scorer, squares_BHWC, texts, f"scorer {ready.card.name}")


def _verdict(card: ScorerCard, score: float) -> SampleSkipped | None:
    """Why a sample with this score is filtered; None where it is not."""
    if card.min is not None and score < card.min:
        return SampleSkipped(FILTERED, f"{card.name} {score:.6g} is below min {card.min:g}")
    if card.max is not None and score > card.max:
        return SampleSkipped(FILTERED, f"{card.name} {score:.6g} is above max {card.max:g}")
    return None
