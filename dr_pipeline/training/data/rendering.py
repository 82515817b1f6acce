"""Where the student's views are rendered: in the loading processes, or on the GPU from crops. Pixels are the same.

Shapes: B samples of one view each, S pixels of a side, C = 3 channels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from PIL import Image

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.networks.launching import runs_kernels
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.render import render
from dr_pipeline.views.transforms import View

if TYPE_CHECKING:
    from dr_pipeline.views.device.render import Planned

_VIEWS_AT_ONCE = 1024
"""The GPU holds the crops of so many views of a batch, however large that is."""

_LARGEST_CROP = 8
"""Of the pixels that a view has: no batch takes more than so many times the memory of its views."""


class StudentViews(Protocol):
    """Makes the views of a batch in two steps, both in a loading process: it must pickle."""

    def prepare(self, sample: Sample, image: Image.Image) -> None:
        """Do what is done for each sample, of one view that fits the image. Raises SampleSkipped."""
        ...

    def pack(self, samples: Sequence[Sample]) -> "torch.Tensor | list[Planned]":
        """The pixels of prepared samples, uint8 [B, S, S, C], or what a GPU makes them of, part by part.

        The samples lose theirs.
        """
        ...


class HostViews:
    """Renders views in the loading process; where teachers are in memory, also at the size that they take."""

    def __init__(self, recipe: Recipe, size: int, for_teachers: bool):
        self._recipe, self._size, self._for_teachers = recipe, size, for_teachers

    def prepare(self, sample: Sample, image: Image.Image) -> None:
        """See `StudentViews`."""
        (view,) = sample.views
        pairs = {id2: other.decoded for id2, other in sample.earlier.items()}
        with _skipping_refused(view):
            sample.views_NHWC = render(image, [view], self._recipe, self._size, pairs)
            if self._for_teachers:
                is_same = self._recipe.size == self._size
                sample.teacher_views_NHWC = sample.views_NHWC if is_same else render(image, [view], self._recipe)

    def pack(self, samples: Sequence[Sample]) -> torch.Tensor:
        """See `StudentViews`."""
        views_BHWC = np.concatenate([sample.views_NHWC for sample in samples])
        for sample in samples:
            sample.views_NHWC = None
        return torch.from_numpy(views_BHWC)


class DeviceViews:
    """Has the GPU render views; the loading process decodes an image and cuts out what its view shows.

    A large crop is rendered in the loading process. As the image of a view without transforms, of the same size, it
    comes out of the GPU as it is.
    """

    def __init__(self, recipe: Recipe, size: int):
        self._recipe, self._size = recipe, size
        self._on_host = HostViews(recipe, size, for_teachers=False)

    def prepare(self, sample: Sample, image: Image.Image) -> None:
        """See `StudentViews`."""
        from dr_pipeline.views.device.rand_augment import plan_ops

        (view,) = sample.views
        top, left, height, width = self._recipe.box(view, image.width, image.height)
        if height * width > _LARGEST_CROP * self._size**2:
            self._on_host.prepare(sample, image)
            (sample.image_HWC,), sample.views_NHWC = sample.views_NHWC, None
            sample.views = ((),)
            return
        with _skipping_refused(view):  # here, where it concerns one sample; planned again it costs a look-up
            plan_ops([dict(view).get("rand_augment") or ()], self._size)
        sample.image_HWC = np.asarray(image.crop((left, top, left + width, top + height)))

    def pack(self, samples: Sequence[Sample]) -> "list[Planned]":
        """See `StudentViews`."""
        from dr_pipeline.views.device.render import plan

        recipe, parts = self._recipe.without_crops(), []
        for start in range(0, len(samples), _VIEWS_AT_ONCE):
            some = samples[start : start + _VIEWS_AT_ONCE]
            crops_HWC = [sample.image_HWC for sample in some if sample.image_HWC is not None]
            parts.append(plan(crops_HWC, [sample.views for sample in some], recipe, self._size, pinned=False))
            for sample in some:
                sample.image_HWC = None
        return parts


def views_for(job: TrainJob, recipe: Recipe, size: int, device: torch.device) -> StudentViews:
    """How a job's views of `size` pixels are made: by the GPU where the student is trained on one.

    Teachers in memory take the same views on the host, so that all are rendered there; so are views that are mixed.
    """
    for_teachers = bool(job.distillation.online_teachers)
    if device.type == "cuda" and runs_kernels(device) and not for_teachers and not recipe.mixings:
        return DeviceViews(recipe, size)
    return HostViews(recipe, size, for_teachers)


@contextmanager
def _skipping_refused(view: View) -> Iterator[None]:
    """Raise SampleSkipped where a transform refuses the parameters of a view."""
    try:
        yield
    except (ValueError, TypeError, ArithmeticError) as error:  # such as a magnitude that no operation takes
        raise SampleSkipped("bad paug.json", f"{view}: {error}") from error
