"""The stage that mixes views with views of earlier images: it pairs samples in order, and renders on any thread."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from PIL import Image

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.views.mixing import pair_of
from dr_pipeline.views.recipe import WINDOW, Recipe, mixed_with_earlier
from dr_pipeline.views.render import decode, render

_LARGEST_KEPT = 1 << 20
"""Pixels of an image that is kept decoded, 4 MB, for as long as the window reaches. Larger ones are decoded anew."""


class _Earlier(NamedTuple):
    """An image that later ones may be mixed with."""

    size: tuple[int, int]
    image: Image.Image | None
    data: bytes


class Paired(NamedTuple):
    """A sample, and the images that its views are mixed with, by their index in the shard."""

    sample: Sample
    others: dict[int, _Earlier]


class Mixer:
    """Mixes the views of one job's samples."""

    def __init__(self, job: Job):
        self._recipe, self._seed = Recipe(job.augmentation), job.seed
        self._max_pixels = job.errors.max_image_pixels

    def pair(self, samples: Iterable[Sample]) -> Iterator[Paired]:
        """Draw the pairs of a shard's decoded samples, in order. Those to be skipped are neither mixed nor counted."""
        window: deque[_Earlier] = deque(maxlen=WINDOW)
        index = 0
        for sample in samples:
            others: dict[int, _Earlier] = {}
            if not sample.skip:
                image, start = sample.decoded, index - len(window)
                sizes = [earlier.size for earlier in window]
                sample.views = mixed_with_earlier(sample.views, self._recipe, self._seed, sample.key, index, sizes)
                pairs = [pair.id2 for view in sample.views if (pair := pair_of(view))]
                others = {id2: window[id2 - start] for id2 in pairs}
                is_kept = image.width * image.height <= _LARGEST_KEPT
                window.append(_Earlier(image.size, image if is_kept else None, sample.image))
                index += 1
            yield Paired(sample, others)

    def render(self, paired: Paired, stats: ShardStats) -> Sample:
        """Fill in the pixels of the views of a sample that is not to be skipped."""
        sample = paired.sample
        if not sample.skip:
            with stats.stage("render"):
                images = {
                    id2: earlier.image or decode(earlier.data, self._max_pixels)
                    for id2, earlier in paired.others.items()
                }
                sample.views_NHWC = render(sample.decoded, sample.views, self._recipe, pairs=images)
                sample.decoded = None
        return sample
