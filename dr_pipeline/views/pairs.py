"""Draws the earlier images that a sample's views are mixed with.

A pair is one of the last samples before it in the output's shard, so that whoever reads the shard in order has it.
"""

from collections.abc import Sequence

from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.mixing import PAIR, Pair
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.seeding import Stream
from dr_pipeline.views.transforms import View

WINDOW = 64
"""A pair lies at most so many samples before its sample."""


def mixed_with_earlier(
    views: Sequence[View], recipe: Recipe, seed: int, key: str, index: int, sizes: Sequence[tuple[int, int]]
) -> tuple[View, ...]:
    """The views of the sample `key`, each with the view that it is mixed with; a pure function.

    `index`: the sample's place in the output's shard; `sizes`: width and height of the images of the samples before it,
    the last min(index, WINDOW) of them, in order. Views of the first sample are not mixed, nor is one whose drawn
    image is too small for a crop.
    """
    mixed = []
    for number, view in enumerate(views):
        stream = Stream(seed, "mix", key, number)
        drawn = [(mixing.name, mixing.draw(recipe.size, recipe.size, stream)) for mixing in recipe.mixings]
        drawn = [(name, parameters) for name, parameters in drawn if parameters is not None]
        if drawn and sizes:
            place = stream.integer(len(sizes))
            try:
                other = recipe.draw(*sizes[place], stream)
                view = (*view, (PAIR, Pair(index - len(sizes) + place, other)), *drawn)
            except SampleSkipped:
                pass
        mixed.append(view)
    return tuple(mixed)
