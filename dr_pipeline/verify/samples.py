"""One sample of a dataset against the contract: its members, image, shapes and embeddings."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from dr_pipeline.codecs import find_codec
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.sample import Reinforcement, find_image, has_image, read_caption
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.recipe import UNDESCRIBED, Recipe


class Expected:
    """What config.json promises, or where there is none, what the first sample sets."""

    def __init__(self, config: dict[str, Any], recipe: Recipe = UNDESCRIBED):
        self.recipe = recipe
        ours = config.get("dr_pipeline", {})
        self.layout: str | None = ours.get("layout")
        self.num_views: int | None = ours.get("num_views")
        self.dims: list[int] = [teacher["dim"] for teacher in ours.get("teachers", []) if teacher.get("dim")]
        self.with_images: bool = ours.get("identity", {}).get("output", {}).get("images") != "omit"
        self.total_dim: int | None = sum(self.dims) or None


def missing_problems(fields: dict[str, bytes], expected: Expected) -> Iterator[str]:
    """What a consumer would drop a sample for, given as {extension: bytes}."""
    if "txt" not in fields:
        yield "no txt: a consumer drops the sample"
    else:
        try:
            read_caption(fields, "txt")
        except SampleSkipped as skip:
            yield f"txt: {skip}"
    if expected.with_images and not has_image(fields):
        yield "no image: a consumer drops the sample"


def sample_problems(fields: dict[str, bytes], expected: Expected) -> Iterator[str]:
    """What is wrong with what a sample holds. What the first sample is, the others must be."""
    try:
        made, form = layout.decode(fields, expected.recipe)
    except SampleSkipped as skip:
        yield str(skip)
        return
    expected.layout = expected.layout or form
    if form != expected.layout:
        yield f"layout {form} in a dataset of layout {expected.layout}"
    if has_image(fields):
        yield from _image_problems(fields, made, expected.recipe)
    yield from _shape_problems(made, expected)
    codec = find_codec(fields)
    assert codec is not None, "what was decoded has one"
    yield from _value_problems(made, expected, codec.norm_tolerance)


def _image_problems(fields: dict[str, bytes], made: Reinforcement, recipe: Recipe) -> Iterator[str]:
    ext = find_image(fields)
    try:
        width, height = Image.open(io.BytesIO(fields[ext])).size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        yield f"{ext}: {error}"
        return
    for index, view in enumerate(made.views):
        yield from (f"view {index}: {misfit}" for misfit in recipe.misfits(view, width, height))


def _shape_problems(made: Reinforcement, expected: Expected) -> Iterator[str]:
    num_views, total_dim = made.image_emb_ND.shape
    expected.num_views = expected.num_views or num_views
    expected.total_dim = expected.total_dim or total_dim
    if num_views != len(made.views) or num_views != expected.num_views:
        yield f"image_emb has {num_views} rows for {len(made.views)} views; the dataset has {expected.num_views}"
    if len(made.text_emb_TD) != 1:
        yield f"text_emb has {len(made.text_emb_TD)} rows for one caption"
    for key, emb_TD in made.synthetic_emb_TD.items():
        if len(emb_TD) != len(made.synthetic[key]):
            yield f"{key} has {len(made.synthetic[key])} captions but {len(emb_TD)} embeddings"
    for name, emb in _embeddings(made):
        if emb.shape[-1] != expected.total_dim:
            yield f"{name} has {emb.shape[-1]} dims; the dataset has {expected.total_dim}"


def _value_problems(made: Reinforcement, expected: Expected, tolerance: float) -> Iterator[str]:
    for name, emb in _embeddings(made):
        if not np.isfinite(emb).all():
            yield f"{name} holds NaN or infinity"
        elif sum(expected.dims) != emb.shape[-1]:
            yield from _norm_problems(name, emb, tolerance)
        else:
            for index, slice_ in enumerate(np.split(emb, np.cumsum(expected.dims)[:-1], axis=-1)):
                off = np.abs(np.linalg.norm(slice_, axis=-1) - 1).max(initial=0)
                if off > tolerance:
                    yield f"{name}: teacher {index}'s slice has a norm that is {off:.3g} off 1"


def _norm_problems(name: str, emb: np.ndarray, tolerance: float) -> Iterator[str]:
    """Where the teachers' dims are unknown: K slices of norm 1 make a squared norm of K."""
    squared = (emb.astype(np.float64) ** 2).sum(axis=-1)
    off = np.abs(squared - np.maximum(squared.round(), 1)).max(initial=0)
    if off > 2 * tolerance * squared.max(initial=1):
        yield f"{name}: a squared norm is {off:.3g} off a whole number of teachers"


def _embeddings(made: Reinforcement) -> Iterator[tuple[str, np.ndarray]]:
    yield "image_emb", made.image_emb_ND
    yield "text_emb", made.text_emb_TD
    yield from made.synthetic_emb_TD.items()
