"""From a stored sample to what one training step takes of it: one view, a caption of each kind, and their columns.

What is chosen depends on the seed, the sample's key and the epoch alone.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from dr_pipeline.codecs.codec import to_float32
from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.base_index import BaseReader
from dr_pipeline.dataset.probabilities import find_fault
from dr_pipeline.dataset.sample import (
    IMAGE,
    LABEL_INDICES,
    LABEL_VALUES,
    PROBS_INDICES,
    PROBS_VALUES,
    SYNTHETIC,
    TEXT,
    Column,
    Sample,
    read_caption,
    read_class,
)
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.training.data.training_set import TrainingSet, matching_keys
from dr_pipeline.views.mixing import own_share, pair_of
from dr_pipeline.views.render import decode
from dr_pipeline.views.seeding import Stream
from dr_pipeline.views.transforms import View

_ROUNDING = 0.05
"""How far a sum of probabilities in bfloat16 may be above 1."""

Prepare = Callable[[Sample, Image.Image], None]
"""Fills in what the student sees of a sample: its one view of the image, which fits it. May raise SampleSkipped."""


class Selector:
    """Narrows the samples of one job to what a step takes."""

    def __init__(self, job: TrainJob, training_set: TrainingSet, prepare: Prepare):
        self._job, self._training_set, self._prepare = job, training_set, prepare
        self._base = BaseReader(training_set.base) if training_set.base else None
        self._num_probs: int | None = None
        """Class probabilities of a view, as many in each sample."""

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
        if TEXT in self._job.caption_weights:
            sample.caption = read_caption(sample.members, self._job.data.caption)
            rows[TEXT] = 0, 1
        synthetic: dict[str, list[str]] = {}
        if SYNTHETIC in self._job.caption_weights:
            key = self._synthetic_key(sample, key_draw)
            captions = sample.synthetic[key]
            rows[key] = int(caption_draw * len(captions)), len(captions)
            synthetic = {key: [captions[rows[key][0]]]}
        if self._job.data.augmentation:
            image = decode(sample.image, self._job.data.max_image_pixels)
            rng = Stream(self._job.seed, "fresh", sample.key, epoch)
            view = self._training_set.recipe.draw(image.width, image.height, rng)
        else:
            view, row, num_views = self._stored_view(sample, view_draw, epoch)
            rows[IMAGE] = row, num_views
            if self._job.reads_embeddings:
                self._select_rows(uri, sample, rows)
            if self._job.reads_probabilities:
                self._select_probabilities(sample, row, num_views)
            image = decode(sample.image, self._job.data.max_image_pixels)
        self._find_pair(sample, view)
        if self._job.reads_labels:
            sample.columns |= self._label(sample, view)
        self._check_fit(view, image)
        sample.synthetic, sample.views, sample.members = synthetic, (view,), {}
        self._prepare(sample, image)
        sample.earlier = {}

    def _synthetic_key(self, sample: Sample, draw: float) -> str:
        """The key of which a synthetic caption is taken; `draw`: 0 to 1. Raises SampleSkipped where there is none."""
        layout.decode_synthetic(sample)
        keys = matching_keys(self._job, sample.synthetic)
        if not keys:
            there = ", ".join(sample.synthetic)
            raise SampleSkipped("no synthetic key", f"none of {there} matches captions.synthetic_key")
        return keys[int(draw * len(keys))]

    def _stored_view(self, sample: Sample, draw: float, epoch: int) -> tuple[View, int, int]:
        """A view of the sample, its row, and of how many; `draw`: 0 to 1. Raises SampleSkipped where there is none."""
        entries = layout.read_views(sample)
        if not entries:
            raise SampleSkipped("bad paug.json", "param_aug is empty")
        row = epoch % len(entries) if self._job.data.view == "sequential" else int(draw * len(entries))
        return layout.decode_view(entries[row], self._training_set.recipe), row, len(entries)

    def _find_pair(self, sample: Sample, view: View) -> None:
        """Leave of the earlier samples the one that a view is mixed with, decoded. Raises SampleSkipped."""
        pair = pair_of(view)
        if pair is None:
            sample.earlier = {}
            return
        other = sample.earlier.get(pair.id2)
        if other is None or other.skip:
            raise SampleSkipped("bad paug.json", f"its pair {pair.id2} is none of the {len(sample.earlier)} before it")
        other = replace(other, members=dict(other.members))  # later samples have it too
        if self._base:
            self._base.add_image(other)
        other.decoded = decode(other.image, self._job.data.max_image_pixels)
        self._check_fit(pair.view, other.decoded)
        sample.earlier = {pair.id2: other}

    def _check_fit(self, view: View, image: Image.Image) -> None:
        """Raise SampleSkipped where a view does not fit its image."""
        for misfit in self._training_set.recipe.misfits(view, image.width, image.height):
            raise SampleSkipped("bad paug.json", misfit)

    def _select_probabilities(self, sample: Sample, row: int, num_rows: int) -> None:
        """Leave of the class probabilities those of one view, [1, K]. Raises SampleSkipped."""
        layout.decode_columns(sample)
        values, indices = Column(PROBS_VALUES, IMAGE), Column(PROBS_INDICES, IMAGE)
        if values not in sample.columns:
            raise SampleSkipped("missing probabilities", layout.array_name(IMAGE, PROBS_VALUES))
        values_NK, indices_NK = sample.columns[values], sample.columns[indices]
        self._num_probs = self._num_probs or values_NK.shape[1]
        if tuple(values_NK.shape) != (num_rows, self._num_probs):
            found, expected = list(values_NK.shape), [num_rows, self._num_probs]
            raise SampleSkipped("misshapen probabilities", f"they are {found}, expected {expected}")
        values_1K, indices_1K = to_float32(values_NK[row : row + 1]), np.asarray(indices_NK[row : row + 1])
        fault = find_fault(values_1K, indices_1K, self._job.student.num_classes, _ROUNDING)
        if fault:
            raise SampleSkipped("bad probabilities", fault)
        sample.columns = {values: values_1K, indices: indices_1K}

    def _label(self, sample: Sample, view: View) -> dict[Column, np.ndarray]:
        """The columns of a sample's label, [1, 2]: its own, and that of the sample that its view is mixed with, where
        it is. Raises SampleSkipped where one has none, or one of no class.
        """
        num_classes = self._job.student.num_classes
        labels = [read_class(one.members) for one in (sample, *sample.earlier.values())]
        for label in labels:
            if label is None or num_classes is None or label >= num_classes:
                raise SampleSkipped("bad cls", f"its label is {label}, of student.num_classes {num_classes}")
        own = own_share(view, self._training_set.recipe.size)
        values, indices = Column(LABEL_VALUES, IMAGE), Column(LABEL_INDICES, IMAGE)
        classes_12 = np.array([[labels[0], labels[-1]]], np.int32)
        return {values: np.array([[own, 1 - own]], np.float32), indices: classes_12}

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
