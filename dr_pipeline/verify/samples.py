"""One sample of a dataset against the contract: its members, image, shapes and embeddings."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from dr_pipeline.codecs import find_codec
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.config_json import shared_teachers
from dr_pipeline.dataset.sample import IMAGE, TEXT, Column, Sample, has_image, read_caption
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.recipe import UNDESCRIBED, Recipe


class Expected:
    """What config.json promises, or where there is none, what the first sample sets."""

    def __init__(self, config: dict[str, Any], recipe: Recipe = UNDESCRIBED):
        self.recipe = recipe
        ours = config.get("dr_pipeline", {})
        self.layout: str | None = ours.get("layout")
        self.num_views: int | None = ours.get("num_views")
        self.dims: list[int] = [teacher["dim"] for teacher in shared_teachers(config) if teacher.get("dim")]
        self.with_images: bool = ours.get("identity", {}).get("output", {}).get("images") != "omit"
        self.total_dim: int | None = sum(self.dims) or None


def missing_problems(sample: Sample, expected: Expected) -> Iterator[str]:
    """What a consumer would drop a sample for."""
    if "txt" not in sample.members:
        yield "no txt: a consumer drops the sample"
    else:
        try:
            read_caption(sample.members, "txt")
        except SampleSkipped as skip:
            yield f"txt: {skip}"
    if expected.with_images and not has_image(sample.members):
        yield "no image: a consumer drops the sample"


def sample_problems(sample: Sample, expected: Expected) -> Iterator[str]:
    """What is wrong with what a sample holds. What the first sample is, the others must be."""
    try:
        its_layout = layout.decode(sample, expected.recipe)
    except SampleSkipped as skip:
        yield str(skip)
        return
    expected.layout = expected.layout or its_layout
    if its_layout != expected.layout:
        yield f"layout {its_layout} in a dataset of layout {expected.layout}"
    if has_image(sample.members):
        yield from _image_problems(sample, expected.recipe)
    yield from _shape_problems(sample, expected)
    codec = find_codec(sample.members)
    assert codec is not None, "what was decoded has one"
    yield from _value_problems(sample, expected, codec.norm_tolerance)


def _image_problems(sample: Sample, recipe: Recipe) -> Iterator[str]:
    try:
        width, height = Image.open(io.BytesIO(sample.image)).size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        yield f"{sample.image_ext}: {error}"
        return
    for index, view in enumerate(sample.views):
        yield from (f"view {index}: {misfit}" for misfit in recipe.misfits(view, width, height))


def _shape_problems(sample: Sample, expected: Expected) -> Iterator[str]:
    """Of the columns that lie side by side, and of those of one teacher."""
    expected.num_views = expected.num_views or len(sample.columns[Column("", IMAGE)])
    expected.total_dim = expected.total_dim or sample.columns[Column("", IMAGE)].shape[1]
    for (teacher, of), array in sample.columns.items():
        name = _name(Column(teacher, of))
        if of == IMAGE and not len(array) == len(sample.views) == expected.num_views:
            yield f"{name} has {len(array)} rows for {len(sample.views)} views; the dataset has {expected.num_views}"
        if of == TEXT and len(array) != 1:
            yield f"{name} has {len(array)} rows for one caption"
        if of in sample.synthetic and len(array) != len(sample.synthetic[of]):
            yield f"{name} has {len(sample.synthetic[of])} captions but {len(array)} embeddings"
        if not teacher and array.shape[-1] != expected.total_dim:
            yield f"{name} has {array.shape[-1]} dims; the dataset has {expected.total_dim}"


def _value_problems(sample: Sample, expected: Expected, tolerance: float) -> Iterator[str]:
    for column, emb in sample.columns.items():
        name = _name(column)
        if not np.isfinite(emb).all():
            yield f"{name} holds NaN or infinity"
        elif column.teacher:
            continue  # what is its own array need not have norm 1
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


def _name(column: Column) -> str:
    """How a column is told of: the array's name, or the key of the captions."""
    name = layout.array_name(column.of) if column.of in (IMAGE, TEXT) else column.of
    return f"{name}_{column.teacher}" if column.teacher else name
