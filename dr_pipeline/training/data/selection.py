"""From a stored sample to what one training step takes of it: one view, a caption of each kind, and their columns.

What is chosen depends on the seed, the sample's key and the epoch alone.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from dr_pipeline.codecs.codec import to_float32
from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.base_index import BaseReader
from dr_pipeline.dataset.sample import IMAGE, TEXT, Column, Sample, read_caption
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.training.data.training_set import TrainingSet, matching_keys
from dr_pipeline.views.render import decode
from dr_pipeline.views.seeding import Stream

Prepare = Callable[[Sample, Image.Image], None]
"""Fills in what the student sees of a sample: its one view of the image, which fits it. May raise SampleSkipped."""


class Selector:
    """Narrows the samples of one job to what a step takes."""

    def __init__(self, job: TrainJob, training_set: TrainingSet, prepare: Prepare):
        self._job, self._training_set, self._prepare = job, training_set, prepare
        self._base = BaseReader(training_set.base) if training_set.base else None

    def select(self, uri: str, sample: Sample, epoch: int) -> None:
        """Leave of a sample of shard `uri` one view, prepared, and one caption of each kind that counts.

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
        for misfit in self._training_set.recipe.misfits(view, image.width, image.height):
            raise SampleSkipped("bad paug.json", misfit)
        sample.synthetic, sample.views, sample.members = synthetic, (view,), {}
        self._prepare(sample, image)

    def _select_rows(self, uri: str, sample: Sample, rows: dict[str, tuple[int, int]]) -> None:
        """Leave of each column that the loss compares with one row, float32 [1, dim]."""
        stored = layout.decode_columns(sample, self._training_set.paired_dims or None)
        if self._training_set.layout and stored != self._training_set.layout:
            raise ShardError(
                f"{uri}: {sample.key} has layout {stored} in a dataset of layout {self._training_set.layout}: "
                "never mix them; dr-pipeline verify lists the samples"
            )
        selected = {}
        for teacher in self._training_set.compared:
            for of, (row, num_rows) in rows.items():
                if teacher.encodes and ("images" if of == IMAGE else "texts") not in teacher.encodes:
                    continue
                name = layout.array_name(of, teacher.name if teacher.encodes else "")
                array = sample.columns.get(Column(teacher.name, of))
                if array is None:
                    raise SampleSkipped("missing embedding", name)
                if tuple(array.shape) != (num_rows, teacher.dim):
                    found, expected = list(array.shape), [num_rows, teacher.dim]
                    raise SampleSkipped("misshapen embedding", f"{name} of {teacher.name} is {found}, not {expected}")
                row_1D = to_float32(array[row : row + 1])
                if not np.isfinite(row_1D).all():
                    raise SampleSkipped("bad embedding", f"{name} holds NaN or infinity")
                selected[Column(teacher.name, of)] = row_1D
        sample.columns = selected
