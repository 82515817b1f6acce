"""Synthetic captions of a chunk of samples, seeded by sample key, captioner and caption index.

Shapes: B images, H = W pixels, C = 3 channels.
"""

import sys
from collections.abc import Sequence
from functools import partial
from itertools import chain

import torch

from dr_pipeline.config.cards import CaptionerCard
from dr_pipeline.dataset.caption_faults import is_degenerate
from dr_pipeline.dataset.sample import check_text
from dr_pipeline.errors import ModelError, SampleSkipped
from dr_pipeline.models.protocol import Captioner
from dr_pipeline.networks.device import Precision, autocast
from dr_pipeline.networks.images import prepare
from dr_pipeline.reinforce.chunk import Chunk
from dr_pipeline.reinforce.device_batch import DeviceBatches
from dr_pipeline.views.seeding import Stream


class CaptionStage:
    """The job's captioners, which caption a chunk one after the other."""

    def __init__(
        self,
        captioners: Sequence[tuple[CaptionerCard, Captioner]],
        device: torch.device,
        precision: Precision,
        seed: int,
    ):
        self._captioners = [  # at first a whole chunk is one batch: views decide how many samples that are
            (card, captioner, DeviceBatches("images to caption", sys.maxsize)) for card, captioner in captioners
        ]
        self._device = device
        self._precision = precision
        self._seed = seed

    @property
    def square_sides(self) -> list[int]:
        """The sizes in pixels of the central squares that the captioners see."""
        return sorted({captioner.spec.image_size for _, captioner, _ in self._captioners})

    def caption(self, chunk: Chunk) -> None:
        """Fill in each captioner's captions, beside those that the samples came with. Raises ModelError."""
        kept = chunk.kept
        for card, captioner, batches in self._captioners:
            parts = batches.run(partial(self._generate, card, captioner, chunk), range(len(kept)))
            for sample, captions in zip(kept, chain.from_iterable(parts), strict=True):
                sample.synthetic[card.caption_key] = captions

    def _generate(self, card: CaptionerCard, captioner: Captioner, chunk: Chunk, rows: range) -> list[list[str]]:
        """The captions of these rows of the chunk's kept samples.

        Degenerate ones are drawn again, up to `redraws` times, each with its image and from a stream of its own.
        """
        keys = [sample.key for sample in chunk.kept[rows.start : rows.stop]]
        streams = [
            [Stream(self._seed, "caption", key, card.caption_key, index) for index in range(card.num_captions)]
            for key in keys
        ]
        squares_BHWC = chunk.squares[captioner.spec.image_size][rows.start : rows.stop]
        with torch.inference_mode(), autocast(self._device, self._precision):
            images_BCHW = prepare(squares_BHWC.to(self._device, non_blocking=True), captioner.spec)
            captions = _checked(card, captioner.caption(images_BCHW, streams, card.sampling), streams)
            for attempt in range(1, card.redraws + 1):
                poor = [
                    (b, c) for b, texts in enumerate(captions) for c, text in enumerate(texts) if is_degenerate(text)
                ]
                if not poor:
                    break
                streams = [
                    [Stream(self._seed, "caption", keys[b], card.caption_key, c, "redraw", attempt)] for b, c in poor
                ]
                redrawn = captioner.caption(images_BCHW[[b for b, _ in poor]], streams, card.sampling)
                for (b, c), (text,) in zip(poor, _checked(card, redrawn, streams), strict=True):
                    captions[b][c] = text
        return captions


def _checked(card: CaptionerCard, captions: list[list[str]], streams: list[list[Stream]]) -> list[list[str]]:
    """A copy of a captioner's captions. Raises ModelError unless there is one that can be stored for each stream."""
    if [len(texts) for texts in captions] != [len(of_image) for of_image in streams]:
        raise ModelError(f"captioner {card.name} did not return {len(streams[0])} captions for each image")
    for text in chain.from_iterable(captions):
        try:
            check_text(text, "caption")
        except (SampleSkipped, TypeError, AttributeError) as error:
            raise ModelError(
                f"captioner {card.name} returned {ascii(text)[:60]}, which is no caption: {error}"
            ) from error
    return [list(texts) for texts in captions]
