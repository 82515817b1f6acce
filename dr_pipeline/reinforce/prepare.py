"""Decode, draw, render: all that a sample needs before the models see it. Everything that can fail for one sample
fails here.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.raw import RawSample
from dr_pipeline.dataset.sample import Sample, to_sample
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.reinforce.tally import Tally
from dr_pipeline.views.damage import find_damage
from dr_pipeline.views.recipe import Recipe, draw
from dr_pipeline.views.render import decode, render, render_center
from dr_pipeline.views.transforms import View


class Drawn(NamedTuple):
    """A sample and the views that were drawn of it."""

    sample: Sample
    views: tuple[View, ...]


class Prepared(NamedTuple):
    """A sample with the pixels that the models are to see."""

    drawn: Drawn
    views_NHWC: np.ndarray
    """uint8 pixels, one image a view."""
    squares: dict[int, np.ndarray]
    """The image's central square by its side in pixels, uint8 [side, side, 3]: what captioners see."""


class Skipped(NamedTuple):
    """A sample that is left out, and why."""

    key: str
    skip: SampleSkipped
    num_members: int


class Preparer:
    """Prepares samples of one job; several threads may call it at once."""

    def __init__(self, job: Job, square_sides: Sequence[int]):
        self._job = job
        self._recipe = Recipe(job.augmentation)
        self._square_sides = square_sides

    def prepare(self, raw: RawSample, tally: Tally) -> Prepared | Skipped:
        """Decode, draw, render; the same pixels whichever thread and whatever else is in work."""
        try:
            with tally.stage("decode"):
                sample, image = self.decode(raw)
        except SampleSkipped as skip:
            return Skipped(raw.key, skip, len(raw.members))
        try:
            with tally.stage("draw"):
                views = draw(image.width, image.height, self._job.augmentation, self._job.seed, sample.key)
        except SampleSkipped as skip:
            return Skipped(raw.key, skip, len(raw.members))
        with tally.stage("render"):
            views_NHWC = render(image, views, self._recipe)
            squares = {side: render_center(image, side) for side in self._square_sides}
        return Prepared(Drawn(sample, views), views_NHWC, squares)

    def decode(self, raw: RawSample) -> tuple[Sample, Image.Image]:
        """The sample and its image. Raises SampleSkipped where the job cannot have it."""
        if raw.skip:
            raise raw.skip
        sample = to_sample(raw.key, raw.fields, self._job.input.caption)
        _check_captions(sample, self._job)
        image = decode(sample.image, self._job.errors.max_image_pixels)
        damage = find_damage(sample.image)
        if damage:
            raise SampleSkipped("corrupt image", damage)
        return sample, image


def _check_captions(sample: Sample, job: Job) -> None:
    """A consumer needs at least one synthetic caption, and under layout v1 the one key syn_text."""
    ours = [captioner.caption_key for captioner in job.captioners]
    clash = sorted(sample.synthetic.keys() & set(ours))
    if clash:
        raise SampleSkipped("synthetic key taken", f"the input has {', '.join(clash)}: give the captioner another tag")
    keys = [*sample.synthetic, *ours]
    if not any(key.startswith("syn_text") for key in keys):
        raise SampleSkipped("no synthetic captions", "no captioner in the job, and no syn_text… in a syn.json")
    if job.output.layout == "v1" and len(keys) > 1:
        raise SampleSkipped("too many synthetic keys", f"layout v1 holds one, found {', '.join(keys)}")
    if job.output.layout == "v1" and keys != ["syn_text"]:
        raise SampleSkipped("other synthetic key", f"readers of layout v1 look for syn_text, found {keys[0]}: use v2")
