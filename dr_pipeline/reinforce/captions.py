"""Synthetic captions of a chunk of samples, seeded by sample key, captioner and caption index."""

from collections.abc import Sequence

import torch

from dr_pipeline.config import CaptionerCard
from dr_pipeline.errors import ModelError
from dr_pipeline.models.protocol import Captioner
from dr_pipeline.networks.device import Precision, autocast
from dr_pipeline.networks.images import prepare
from dr_pipeline.reinforce.chunk import Chunk
from dr_pipeline.views.seeding import Stream


class Captions:
    """The job's captioners, in order."""

    def __init__(
        self,
        captioners: Sequence[tuple[CaptionerCard, Captioner]],
        device: torch.device,
        precision: Precision,
        seed: int,
    ):
        self._captioners = captioners
        self._device = device
        self._precision = precision
        self._seed = seed

    @property
    def square_sides(self) -> list[int]:
        """The sizes in pixels at which captioners want the image's central square."""
        return sorted({captioner.spec.image_size for _, captioner in self._captioners})

    def caption(self, chunk: Chunk) -> list[dict[str, list[str]]]:
        """For each sample its captions by `syn.json` key: those it came with, then each captioner's."""
        captions = [dict(sample.synthetic) for sample, _ in chunk.drawn]
        for card, captioner in self._captioners:
            for by_key, generated in zip(captions, self._generate(card, captioner, chunk), strict=True):
                by_key[card.caption_key] = generated
        return captions

    def _generate(self, card: CaptionerCard, captioner: Captioner, chunk: Chunk) -> list[list[str]]:
        squares_BHWC = chunk.squares[captioner.spec.image_size].to(self._device, non_blocking=True)
        streams = [
            [Stream(self._seed, "caption", sample.key, card.caption_key, index) for index in range(card.num_captions)]
            for sample, _ in chunk.drawn
        ]
        with torch.inference_mode(), autocast(self._device, self._precision):
            captions = captioner.caption(prepare(squares_BHWC, captioner.spec), streams, card.sampling)
        if [len(generated) for generated in captions] != [card.num_captions] * len(streams):
            raise ModelError(f"captioner {card.name} did not return {card.num_captions} captions for each image")
        return captions
