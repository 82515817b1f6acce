"""Synthetic captions, seeded by sample key, captioner and caption index.

Shapes: B images, H = W pixels, C = 3 channels.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

import numpy as np
import torch

from dr_pipeline.config.cards import CaptionerCard, RewriterCard
from dr_pipeline.config.prompts import fill_in
from dr_pipeline.dataset.caption_faults import is_degenerate
from dr_pipeline.dataset.sample import Sample, check_text
from dr_pipeline.errors import ModelError, SampleSkipped
from dr_pipeline.models.precision import ReadyCaptioner
from dr_pipeline.networks.device import Precision, precision_context
from dr_pipeline.networks.images import ImageSpec, host_tensor, prepare
from dr_pipeline.networks.launching import device_turn, make_stream
from dr_pipeline.reinforce.batches import DeviceBatches
from dr_pipeline.reinforce.in_flight import InFlight, in_groups, keys_of, naming
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.reinforce.threads import Turn
from dr_pipeline.views.seeding import Stream
from dr_pipeline.words import plural


class CaptionStage:
    """The job's captioners and rewriters: they write of as many samples at once as fill the device's batch."""

    def __init__(
        self,
        captioners: Sequence[ReadyCaptioner],
        device: torch.device,
        precision: Precision,
        seed: int,
        batch_size: int,
    ):
        self._captioners = [(ready, DeviceBatches("images to caption", batch_size)) for ready in captioners]
        self._captions_each = sum(ready.card.num_captions for ready in captioners)
        self._device = device
        self._precision = precision
        self._seed = seed
        self.batch_size = batch_size
        self._turn = Turn()
        self._device_turn = device_turn(device)
        self._stream = make_stream(device)

    @property
    def square_sides(self) -> list[int]:
        """The sizes in pixels of the central squares that the captioners see."""
        return sorted({spec.image_size for ready, _ in self._captioners if (spec := _images_of(ready))})

    def run(self, items: Iterable[InFlight], stats: ShardStats) -> Iterator[InFlight]:
        """Yield a shard's samples once they have their captions. Raises ShardError, naming the keys.

        Its work lies on a stream of its own, so that the device's other work goes on while a captioner waits.
        """
        if not self._captioners:
            yield from items
            return
        with self._turn.of(items, stats) as items, torch.cuda.stream(self._stream):
            for group in in_groups(items, lambda item: not item.sample.skip, self.batch_size):
                kept = [item.sample for item in group if not item.sample.skip]
                if kept:
                    with naming(keys_of(kept)), self._device_turn, stats.stage("caption"):
                        self.caption(kept)
                    stats.count("captions_drawn", len(kept) * self._captions_each)
                yield from group

    def caption(self, samples: Sequence[Sample]) -> None:
        """Fill in each captioner's captions, beside those that the samples came with. Raises ModelError."""
        for ready, batches in self._captioners:
            parts = batches.run(partial(self._generate, ready), samples)
            for sample, captions in zip(samples, chain.from_iterable(parts), strict=True):
                sample.synthetic[ready.card.caption_key] = captions
        for sample in samples:
            sample.squares = {}

    def _generate(self, ready: ReadyCaptioner, samples: Sequence[Sample]) -> list[list[str]]:
        """The captions of one batch.

        Degenerate ones are drawn again, up to `redraws` times, each with its image and from a stream of its own.
        """
        card, _, needs_autocast = ready
        streams = [
            [caption_stream(self._seed, card, sample.key, index) for index in range(card.num_captions)]
            for sample in samples
        ]
        with torch.inference_mode(), precision_context(self._device, self._precision, needs_autocast):
            images_BCHW = self._images(spec, samples) if (spec := _images_of(ready)) else None
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

    def _images(self, spec: ImageSpec, samples: Sequence[Sample]) -> torch.Tensor:
        """The samples' images on the device, [B, C, H, W]."""
        squares_BHWC = host_tensor(np.stack([sample.squares[spec.image_size] for sample in samples]), self._device)
        return prepare(squares_BHWC.to(self._device, non_blocking=True), spec)


def caption_stream(seed: int, card: CaptionerCard, key: str, index: int, redraw: int = 0) -> Stream:
    """The random numbers of one caption of a sample; `redraw`: how often it was drawn before."""
    drawn_again = ("redraw", redraw) if redraw else ()
    return Stream(seed, "caption", key, card.caption_key, index, *drawn_again)


def _images_of(ready: ReadyCaptioner) -> ImageSpec | None:
    """The images that a captioner sees; None of a rewriter."""
    return None if isinstance(ready.card, RewriterCard) else ready.captioner.spec


def _written(
    ready: ReadyCaptioner, images_BCHW: torch.Tensor | None, samples: Sequence[Sample], streams: list[list[Stream]]
) -> list[list[str]]:
    """What a captioner writes of the samples' images, or a rewriter of their texts, as its card asks.

    Raises ModelError.
    """
    card, captioner, _ = ready
    prompts = [fill_in(card.prompt or "", key=sample.key, alt_text=sample.caption) for sample in samples]
    if images_BCHW is None:
        captions = captioner.rewrite([sample.caption for sample in samples], prompts, streams, card.sampling)
    elif card.prompt is None:
        captions = captioner.caption(images_BCHW, streams, card.sampling)
    else:
        captions = captioner.caption_prompted(images_BCHW, prompts, streams, card.sampling)
    return _checked(card, captions, streams)


def _checked(card: CaptionerCard, captions: list[list[str]], streams: list[list[Stream]]) -> list[list[str]]:
    """A copy of a captioner's captions. Raises ModelError unless there is one that can be stored for each stream."""
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
