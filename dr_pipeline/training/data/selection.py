"""From a stored sample to what one training step takes of it: one view, a caption of each kind, and their columns.

What is chosen depends on the seed, the sample's key and the epoch alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from dr_pipeline.codecs.codec import to_float32
from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.base_index import BaseReader
from dr_pipeline.dataset.sample import IMAGE, TEXT, Sample, read_caption
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.training.data.training_set import TrainingSet, matching_keys
from dr_pipeline.views.render import decode, render
from dr_pipeline.views.resample import Box
from dr_pipeline.views.seeding import Stream
from dr_pipeline.views.transforms import View

Transform = Callable[[Image.Image, Box], Any]
"""An image and the crop that the teachers saw, (top, left, height, width) in its pixels → what the student sees."""


class Selector:
    """Narrows the samples of one job to what a step takes."""

    def __init__(self, job: TrainJob, training_set: TrainingSet, image_size: int, transform: Transform | None = None):
        """`image_size`: the student's, in pixels. `transform` makes its pixels in place of a replay."""
        self._job, self._training_set, self._image_size, self._transform = job, training_set, image_size, transform
        self._base = BaseReader(training_set.base) if training_set.base else None

    def select(self, uri: str, sample: Sample, epoch: int) -> None:
        """Leave of a sample of shard `uri` one view with its pixels, and one caption of each kind that counts.

        Of the columns their rows are left, float32 [1, dim]. Raises SampleSkipped where a member that is needed is
        missing or malformed, ShardError where layouts are mixed.
        """
        if sample.skip:
            raise sample.skip
        view_draw, key_draw, caption_draw = Stream(self._job.seed, "choice", sample.key, epoch).uniforms(3)
        if self._base:
            self._base.add_image(sample)
        rows: dict[str, tuple[int, int]] = {}  # what a column is of → the row that is taken, and of how many
        if self._job.captions.ground_truth_weight:
            sample.caption = read_caption(sample.members, self._job.data.caption)
            rows[TEXT] = 0, 1
        synthetic: dict[str, list[str]] = {}
        if self._job.captions.synthetic_weight:
            layout.decode_synthetic(sample)
            keys = matching_keys(self._job, sample.synthetic)
            if not keys:
                there = ", ".join(sample.synthetic)
                raise SampleSkipped("no synthetic key", f"none of {there} matches captions.synthetic_key")
            key = keys[int(key_draw * len(keys))]
            captions = sample.synthetic[key]
            rows[key] = int(caption_draw * len(captions)), len(captions)
            synthetic = {key: [captions[rows[key][0]]]}
        if self._job.data.augmentation:
            image = decode(sample.image, self._job.data.max_image_pixels)
            rng = Stream(self._job.seed, "fresh", sample.key, epoch)
            view = self._training_set.recipe.draw(image.width, image.height, rng)
        else:
            entries = layout.read_views(sample)
            if not entries:
                raise SampleSkipped("bad paug.json", "param_aug is empty")
            is_sequential = self._job.data.view == "sequential"
            rows[IMAGE] = epoch % len(entries) if is_sequential else int(view_draw * len(entries)), len(entries)
            view = layout.decode_view(entries[rows[IMAGE][0]], self._training_set.recipe)
            if self._job.reads_embeddings:
                self._select_rows(uri, sample, rows)
            image = decode(sample.image, self._job.data.max_image_pixels)
        self._render(sample, image, view)
        sample.synthetic, sample.views, sample.members = synthetic, (view,), {}

    def _select_rows(self, uri: str, sample: Sample, rows: dict[str, tuple[int, int]]) -> None:
        """Leave of each column that the loss compares with one row, float32 [1, dim]."""
        dims = {teacher.name: teacher.dim for teacher in self._training_set.teachers}
        stored = layout.decode_columns(sample, dims)
        if stored != self._training_set.layout:
            raise ShardError(
                f"{uri}: {sample.key} has layout {stored} in a dataset of layout {self._training_set.layout}: "
                "never mix them; dr-pipeline verify lists the samples"
            )
        selected = {}
        for column, array in sample.columns.items():
            if column.of not in rows or column.teacher not in dims:
                continue
            row, num_rows = rows[column.of]
            name = layout.array_name(column.of)
            if len(array) != num_rows:
                raise SampleSkipped("misshapen embedding", f"{name} has {len(array)} rows, expected {num_rows}")
            selected[column] = to_float32(array[row : row + 1])
            if not np.isfinite(selected[column]).all():
                raise SampleSkipped("bad embedding", f"{name} holds NaN or infinity")
        sample.columns = {
            column: row_1D for column, row_1D in selected.items() if column.teacher in self._training_set.scales
        }

    def _render(self, sample: Sample, image: Image.Image, view: View) -> None:
        """Fill in the student's pixels, and where teachers are in memory theirs."""
        recipe = self._training_set.recipe
        for misfit in recipe.misfits(view, image.width, image.height):
            raise SampleSkipped("bad paug.json", misfit)
        if self._transform:  # outside of what follows: its errors are the caller's
            sample.views_NHWC = [self._transform(image, recipe.box(view, image.width, image.height))]
            return
        try:
            sample.views_NHWC = render(image, [view], recipe, self._image_size)
            if self._job.distillation.online_teachers:
                is_same = recipe.size == self._image_size
                sample.teacher_views_NHWC = sample.views_NHWC if is_same else render(image, [view], recipe, recipe.size)
        except (ValueError, TypeError, ArithmeticError) as error:  # such as a magnitude that no operation takes
            raise SampleSkipped("bad paug.json", f"{view}: {error}") from error
