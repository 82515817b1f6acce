"""The cards of samples with links to their pictures, and these pictures once a browser asks for them.

A link names places: of the shard, and of the sample in it. A browser follows both links of a sample at once, so its
pictures are made in one go.
"""

import textwrap
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dr_pipeline.errors import PipelineError, SampleSkipped
from dr_pipeline.redaction import printable
from dr_pipeline.report.dataset_reader import DatasetReader, Shown
from dr_pipeline.report.look.cards import (
    MOST_VIEWS,
    add_pictures,
    describe_card,
    encode_image,
    encode_strip,
    why_no_image,
)
from dr_pipeline.report.pictures import draw_outlines, draw_pictures
from dr_pipeline.report.serve.walk import Cursor, Walker

_MOST_SAMPLES = 64
_NOTE_SIZE, _NOTE_PAPER, _NOTE_INK = (384, 128), (238, 238, 238), (70, 70, 70)
_NOTE_LETTERS, _NOTE_LINES = 48, 6


@dataclass(frozen=True)
class Drawn:
    """The pictures of a sample, as WebP files."""

    image: bytes
    views: bytes = b""
    """Side by side."""


class Shelf:
    """Keeps the samples whose cards were given lately. Threads may share it."""

    def __init__(self, reader: DatasetReader, walker: Walker):
        self._reader, self._walker = reader, walker
        self._samples: OrderedDict[tuple[int, int | None], Shown] = OrderedDict()
        self._lock = Lock()

    def card(self, shown: Shown) -> dict[str, Any]:
        """The card of a sample, which is kept until its pictures are asked for."""
        card = describe_card(shown.record)
        shard, index = self._reader.places[shown.record.shard], shown.record.index
        try:
            outlines = draw_outlines(shown, self._reader.recipe, MOST_VIEWS)
        except SampleSkipped as error:
            card["why_no_image"] = why_no_image(error)
            return card
        strip = f"/views/{shard}/{index}" if outlines.boxes else None
        add_pictures(card, outlines, f"/image/{shard}/{index}", strip)
        with self._lock:
            self._samples[shard, index] = shown
            while len(self._samples) > _MOST_SAMPLES:
                self._samples.popitem(last=False)
        return card

    def draw(self, at: Cursor) -> Drawn:
        """The pictures of a sample; where they cannot be made, a picture with the reason in place of its image."""
        with self._lock:
            shown = self._samples.get(at)
        try:
            shown = shown or self._walker.sample_at(at)
            if shown is None:
                raise SampleSkipped("no such sample")
            pictures = draw_pictures(shown, self._reader.recipe, MOST_VIEWS)
        except (SampleSkipped, PipelineError) as error:
            return Drawn(encode_image(_note(str(error))))
        return Drawn(encode_image(pictures.image), encode_strip(pictures.views_NHWC))


def _note(text: str) -> Image.Image:
    """A picture of a text."""
    note = Image.new("RGB", _NOTE_SIZE, _NOTE_PAPER)
    lines = textwrap.wrap(printable(text), _NOTE_LETTERS)
    ImageDraw.Draw(note).text((12, 12), "\n".join(lines[:_NOTE_LINES]), _NOTE_INK, ImageFont.load_default(14))
    return note
