"""Synthetic captions of a chunk of samples, seeded by sample key, captioner and caption index."""

from collections.abc import Sequence

import numpy as np
import torch

from dr_pipeline.config import CaptionerCard
from dr_pipeline.errors import ModelError
from dr_pipeline.models.protocol import Captioner
from dr_pipeline.networks.device import Precision, autocast
from dr_pipeline.networks.images import prepare
from dr_pipeline.reinforce.reader import Decoded
from dr_pipeline.views.render import render_center
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

    def caption(self, chunk: list[Decoded]) -> list[dict[str, list[str]]]:
        """For each sample its captions by `syn.json` key: those it came with, then each captioner's."""
        captions = [dict(sample.synthetic) for sample, _ in chunk]
        for card, captioner in self._captioners:
            for by_key, generated in zip(captions, self._generate(card, captioner, chunk), strict=True):
                by_key[card.caption_key] = generated
        return captions

    def _generate(self, card: CaptionerCard, captioner: Captioner, chunk: list[Decoded]) -> list[list[str]]:
        pixels_BHWC = np.stack([render_center(image, captioner.spec.image_size) for _, image in chunk])
        streams = [
            [Stream(self._seed, "caption", sample.key, card.caption_key, index) for index in range(card.num_captions)]
            for sample, _ in chunk
        ]
        with torch.inference_mode(), autocast(self._device, self._precision):
            images_BCHW = prepare(torch.from_numpy(pixels_BHWC).to(self._device), captioner.spec)
            captions = captioner.caption(images_BCHW, streams, card.sampling)
        if [len(generated) for generated in captions] != [card.num_captions] * len(chunk):
            raise ModelError(f"captioner {card.name} did not return {card.num_captions} captions for each image")
        return captions
