"""What a sample looks like: its image, where each view's crop lies in it, and the views as the teachers saw them."""

from dataclasses import dataclass
from itertools import chain

import numpy as np
from PIL import Image

from dr_pipeline.config.job import Errors
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.report.dataset_reader import Shown
from dr_pipeline.views.mixing import pair_of
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.render import decode, render
from dr_pipeline.views.resample import Box

_MOST_PIXELS = Errors().max_image_pixels
_LARGEST_SIDE = 2048
"""Of a view in pixels: config.json of a foreign dataset may say anything."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of one sample. N: views; H = W pixels; C = 3 channels."""

    image: Image.Image
    """RGB, of the stored size."""
    boxes: tuple[Box, ...]
    """The part of the image that each view shows."""
    views_NHWC: np.ndarray
    """uint8, at the size at which the teachers' views were made."""


def draw_pictures(shown: Shown, recipe: Recipe, most_views: int) -> Pictures:
    """The pictures of a decoded sample, with its first views.

    Raises SampleSkipped where the image, or that of a mixed view, is not there or not whole, or a view does not fit it.
    """
    if shown.sample is None:
        raise SampleSkipped("no picture", "the sample is not in the dataset")
    image, views = decode(shown.sample.image, _MOST_PIXELS), shown.sample.views[:most_views]
    if recipe.size > _LARGEST_SIDE:
        raise SampleSkipped("views too large", f"{recipe.size} px, shown are up to {_LARGEST_SIDE}")
    wanted = {pair.id2 for pair in map(pair_of, views) if pair}
    pairs = {one.index: decode(one.image, _MOST_PIXELS) for one in shown.earlier if one.index in wanted}
    partners = ((pair.view, pairs[pair.id2]) for pair in map(pair_of, views) if pair and pair.id2 in pairs)
    for view, of in chain(((view, image) for view in views), partners):
        for misfit in recipe.misfits(view, *of.size):
            raise SampleSkipped("views do not fit", misfit)
    try:
        views_NHWC = render(image, views, recipe, pairs=pairs) if views else _no_views(recipe)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise SampleSkipped("views cannot be rendered", str(error)) from error
    return Pictures(image, tuple(recipe.box(view, *image.size) for view in views), views_NHWC)


def _no_views(recipe: Recipe) -> np.ndarray:
    return np.empty((0, recipe.size, recipe.size, 3), np.uint8)
