"""Synthetic captions, seeded by sample key, captioner and caption index.

Shapes: B images, H = W pixels, C = 3 channels.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

import torch

from dr_pipeline.config.cards import CaptionerCard, RewriterCard
from dr_pipeline.config.prompts import fill_in
from dr_pipeline.dataset.caption_faults import is_degenerate
from dr_pipeline.dataset.sample import Sample, check_text
from dr_pipeline.errors import ModelError, SampleSkipped
from dr_pipeline.models.precision import ReadyCaptioner
from dr_pipeline.networks.device import Precision, precision_context
from dr_pipeline.networks.images import ImageSpec, prepare
from dr_pipeline.reinforce.in_flight import DeviceBatches, InFlight, SampleStage
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.views.seeding import Stream
from dr_pipeline.words import plural


class CaptionStage(SampleStage):
    """The job's captioners and rewriters: they write of as many samples at once as fill the device's batch."""

    def __init__(
        self,
        captioners: Sequence[ReadyCaptioner],
        device: torch.device,
        precision: Precision,
        seed: int,
        batch_size: int,
    ):
        super().__init__("caption", device, precision, batch_size)
        self._captioners = [
            (
                ready,
                None if isinstance(ready.card, RewriterCard) else ready.captioner.spec,
                DeviceBatches("images to caption", batch_size),
            )
            for ready in captioners
        ]
        """Each with the images that it sees; a rewriter sees none."""
        self._captions_each = sum(ready.card.num_captions for ready in captioners)
        self._seed = seed

    @property
    def square_sides(self) -> list[int]:
        """The sizes in pixels of the central squares that the captioners see."""
        return sorted({spec.image_size for _, spec, _ in self._captioners if spec})

    def run(self, items: Iterable[InFlight], stats: ShardStats) -> Iterator[InFlight]:
        """Yield a shard's samples once they have their captions. Raises ShardError, naming the keys."""
        if not self._captioners:
            yield from items
            return
        for item in self.in_batches(items, lambda item: item.sample, self.caption, stats):
            if not item.sample.skip:
                stats.count("captions_drawn", self._captions_each)
            yield item

    def caption(self, samples: Sequence[Sample]) -> None:
        """Fill in each captioner's captions, beside those that the samples came with. Raises ModelError."""
        for ready, spec, batches in self._captioners:
            parts = batches.run(partial(self._generate, ready, spec), samples)
            for sample, captions in zip(samples, chain.from_iterable(parts), strict=True):
                sample.synthetic[ready.card.caption_key] = captions
        for sample in samples:
            sample.squares = {}

    def _generate(self, ready: ReadyCaptioner, spec: ImageSpec | None, samples: Sequence[Sample]) -> list[list[str]]:
        """The captions of one batch.

        Degenerate ones are drawn again, up to `redraws` times, each with its image and from a stream of its own.
        """
        card, _, needs_autocast = ready
        streams = [
            [caption_stream(self._seed, card, sample.key, index) for index in range(card.num_captions)]
            for sample in samples
        ]
        with torch.inference_mode(), precision_context(self._device, self._precision, needs_autocast):
            images_BCHW = prepare(self.squares(samples, spec.image_size), spec) if spec else None
            captions = _written(ready, images_BCHW, samples, streams)
            for attempt in range(1, card.redraws + 1):
                poor = [
                    (b, c) for b, texts in enumerate(captions) for c, text in enumerate(texts) if is_degenerate(text)
                ]
                if not poor:
                    break
                poor_samples = [samples[b] for b, _ in poor]
                streams = [[caption_stream(self._seed, card, samples[b].key, c, attempt)] for b, c in poor]
                images_RCHW = None if images_BCHW is None else images_BCHW[[b for b, _ in poor]]
                redrawn = _written(ready, images_RCHW, poor_samples, streams)
                for (b, c), (text,) in zip(poor, redrawn, strict=True):
                    captions[b][c] = text
        return captions


def caption_stream(seed: int, card: CaptionerCard, key: str, index: int, redraw: int = 0) -> Stream:
    """The random numbers of one caption of a sample; `redraw`: how often it was drawn before."""
    drawn_again = ("redraw", redraw) if redraw else ()
    return Stream(seed, "caption", key, card.caption_key, index, *drawn_again)


def _written(
    ready: ReadyCaptioner, images_BCHW: torch.Tensor | None, samples: Sequence[Sample], streams: list[list[Stream]]
) -> list[list[str]]:
    """What a captioner writes of the samples' images, or a rewriter of their texts, as its card asks.

    Raises ModelError unless there is a caption that can be stored for each stream.
    """
    card, captioner, _ = ready
    prompts = [fill_in(card.prompt or "", key=sample.key, alt_text=sample.caption) for sample in samples]
    if images_BCHW is None:
        captions = captioner.rewrite([sample.caption for sample in samples], prompts, streams, card.sampling)
    elif card.prompt is None:
        captions = captioner.caption(images_BCHW, streams, card.sampling)
    else:
        captions = captioner.caption_prompted(images_BCHW, prompts, streams, card.sampling)
    if [len(texts) for texts in captions] != [len(of_image) for of_image in streams]:
        raise ModelError(f"captioner {card.name} did not return {plural(len(streams[0]), 'caption')} for each image")
    for text in chain.from_iterable(captions):
        try:
            check_text(text, "caption")
        except (SampleSkipped, TypeError, AttributeError) as error:
            raise ModelError(
                f"captioner {card.name} returned {ascii(text)[:60]}, which is no caption: {error}"
            ) from error
    return [list(texts) for texts in captions]
