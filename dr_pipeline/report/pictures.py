"""What a sample looks like: its image, where each view's crop lies in it, and the views as the teachers saw them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dr_pipeline.config.job import Errors
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.report.dataset_reader import Shown
from dr_pipeline.views.mixing import pair_of
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.render import decode, render, size_of
from dr_pipeline.views.transforms import Box, View

_MOST_PIXELS = Errors().max_image_pixels
_LARGEST_SIDE = 2048
"""Of a view in pixels: config.json of a foreign dataset may say anything."""


@dataclass(frozen=True)
class Outlines:
    """The size of an image, and the part of it that each view shows."""

    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Pictures:
    """The pictures of one sample. N: views; H = W pixels; C = 3 channels."""

    image: Image.Image
    """RGB, of the stored size."""
    outlines: Outlines
    views_NHWC: np.ndarray
    """uint8, at the size at which the teachers' views were made."""


def draw_outlines(shown: Shown, recipe: Recipe, most_views: int) -> Outlines:
    """The outlines of a decoded sample with its first views, by the head of its image, which may be damaged further on.

    Raises SampleSkipped where there is no image, or a view does not fit it.
    """
    sample = _sample_of(shown)
    try:
        width, height = size_of(sample.image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SampleSkipped("corrupt image", str(error)) from error
    return _outlines(sample.views[:most_views], recipe, width, height)


def draw_pictures(shown: Shown, recipe: Recipe, most_views: int) -> Pictures:
    """The pictures of a decoded sample, with its first views.

    Raises SampleSkipped where the image, or that of a mixed view, is not there or not whole, or a view does not fit it.
    """
    sample = _sample_of(shown)
    image, views = decode(sample.image, _MOST_PIXELS), sample.views[:most_views]
    if recipe.size > _LARGEST_SIDE:
        raise SampleSkipped("views too large", f"{recipe.size} px, shown are up to {_LARGEST_SIDE}")
    wanted = {pair.id2 for pair in map(pair_of, views) if pair}
    pairs = {one.index: decode(one.image, _MOST_PIXELS) for one in shown.earlier if one.index in wanted}
    outlines = _outlines(views, recipe, *image.size)
    for pair in filter(None, map(pair_of, views)):
        if pair.id2 in pairs:
            _outlines([pair.view], recipe, *pairs[pair.id2].size)
    views_NHWC = np.empty((0, recipe.size, recipe.size, 3), np.uint8)
    try:
        views_NHWC = render(image, views, recipe, pairs=pairs) if views else views_NHWC
    except (ValueError, TypeError, ArithmeticError) as error:
        raise SampleSkipped("views cannot be rendered", str(error)) from error
    return Pictures(image, outlines, views_NHWC)


def _sample_of(shown: Shown) -> Sample:
    if shown.sample is None:
        raise SampleSkipped("no picture", "the sample is not in the dataset")
    return shown.sample


def _outlines(views: Sequence[View], recipe: Recipe, width: int, height: int) -> Outlines:
    """The outlines of views of an image. Raises SampleSkipped where one does not fit an image of this size."""
    for view in views:
        for misfit in recipe.misfits(view, width, height):
            raise SampleSkipped("views do not fit", misfit)
    return Outlines(width, height, tuple(recipe.box(view, width, height) for view in views))
