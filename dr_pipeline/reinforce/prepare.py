"""Read, decode, draw, render: what a sample goes through on the host before the models see it.

What is wrong with one sample is found here, and sets its `skip`.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.sample import Sample, parse_base_sample
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.views.damage import find_damage
from dr_pipeline.views.recipe import Recipe, draw
from dr_pipeline.views.render import decode, render_center

if TYPE_CHECKING:
    from dr_pipeline.reinforce.rendering import Renderer


def read(stream: BinaryIO, stats: ShardStats, max_member_bytes: int) -> Iterator[Sample]:
    """Yield the samples of a base dataset's tar. Raises ShardError where the tar is damaged."""
    samples = read_samples(stream, max_member_bytes=max_member_bytes, passed_over=stats.passed_over)
    so_far = 0
    while True:
        with stats.stage("read"):
            sample = next(samples, None)
            position = stream.tell()
        stats.count("bytes_read", position - so_far)
        so_far = position
        if sample is None:
            return
        stats.count("samples_read")
        yield sample


def decode_sample(sample: Sample, job: Job) -> Image.Image:
    """Fill in the texts; return the image. Raises SampleSkipped where the job cannot reinforce the sample."""
    if sample.skip:
        raise sample.skip
    parse_base_sample(sample, job.input.caption)
    if job.has_texts:
        _check_captions(sample, job)
    image = decode(sample.image, job.errors.max_image_pixels)
    if damage := find_damage(sample.image):
        raise SampleSkipped("corrupt image", damage)
    return image


class Preparer:
    """Prepares the samples of one job. Several threads may call it at once."""

    def __init__(
        self, job: Job, renderer: "Renderer", square_sides: Sequence[int] = (), scored_sides: Sequence[int] = ()
    ):
        """The sizes in pixels of the central squares: `square_sides` those that captioners want, `scored_sides` those
        that scorers do.
        """
        self._job, self._recipe = job, Recipe(job.augmentation)
        self._renderer = renderer
        self._square_sides = square_sides
        self._scored_sides = scored_sides

    def prepare_scoring(self, sample: Sample, stats: ShardStats) -> Sample:
        """Fill in texts, and the squares for scorers, or `skip`.

        `prepare` decodes again what is not filtered: many samples wait for a scorer, too many to keep their pixels.
        """
        try:
            with stats.stage("decode"):
                image = decode_sample(sample, self._job)
                sample.squares = {side: render_center(image, side) for side in self._scored_sides}
        except SampleSkipped as skip:
            sample.skip = skip
        return sample

    def prepare(self, sample: Sample, stats: ShardStats) -> Sample:
        """Fill in texts, views and pixels, or `skip`. They depend on the sample and the job alone."""
        try:
            with stats.stage("decode"):
                image = decode_sample(sample, self._job)
            with stats.stage("draw"):
                num_views, seed = self._job.augmentation.num_views, self._job.seed
                sample.views = draw(image.width, image.height, self._recipe, num_views, seed, sample.key)
        except SampleSkipped as skip:
            sample.skip = skip
            return sample
        stats.count("samples_decoded")
        with stats.stage("render"):
            self._renderer.prepare(sample, image)
            sample.squares = {side: render_center(image, side) for side in self._square_sides}
        return sample


def _check_captions(sample: Sample, job: Job) -> None:
    """Raise SampleSkipped unless the output would have synthetic captions, under layout v1 of the one key syn_text."""
    ours = [writer.caption_key for writer in job.writers]
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
