"""Stored embeddings against those that the teachers give now."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch

from dr_pipeline.codecs.codec import as_stored
from dr_pipeline.dataset.layout import array_name
from dr_pipeline.dataset.sample import IMAGE, TEXT, Column, Sample
from dr_pipeline.models.distance import spread, unit_rows
from dr_pipeline.verify.findings import Findings
from dr_pipeline.verify.models import RecordedModels

_SAME_ARITHMETIC, _OTHER_ARITHMETIC = 5e-3, 0.1
_OTHER_ROUNDING = 0.01
"""How far embeddings made again may be from the stored ones, as distances of unit vectors: a part of the distance that
this teacher has between different inputs, and a constant. Where both sides were computed in float32 on one kind of
device, batches, threads and processors explain no more than the first (measured on one CPU: 4e-7, of a distance of 1);
what is stored is compared with what is rounded alike, and last bits may tip over, which is the codec's constant.
bfloat16 arithmetic on either side takes the others (measured: 0.07, of a distance of 1). A model with random weights
may have all its images within 0.0005: by a constant alone all of them were the same, or honest rounding were a fault.
"""
_MOST_KEPT = 512


class _Distance(NamedTuple):
    """Of one column of a sample: the row that is the farthest from what it is now."""

    file: str
    key: str
    column: Column
    row: int
    distance: float
    is_exact: bool
    """Whether both sides were computed in the same float32 arithmetic."""

    @property
    def inputs(self) -> tuple[str, str]:
        """The teacher, and what it was given."""
        return self.column.teacher, "images" if self.column.of == IMAGE else "texts"


class EmbeddingComparison:
    """Distances of stored columns to new ones. What rounding explains is known only when all are there."""

    def __init__(self, models: RecordedModels, findings: Findings):
        ensemble = models.ensemble
        both = [name for name in ensemble.image_teachers if name in ensemble.text_teachers]
        self.dims = {name: ensemble.dims[name] for name in both}
        """Of the teachers whose columns lie side by side."""
        self._models = models
        self._findings = findings
        self._distances: list[_Distance] = []
        self._made: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
        """(teacher, inputs) → embeddings."""
        self._spread: dict[tuple[str, str], float] = {}
        """(teacher, inputs) → the distance between the embeddings of different inputs."""

    @property
    def largest_distance(self) -> float:
        """Of all stored embeddings to new ones."""
        return max((distance.distance for distance in self._distances), default=0)

    def check_texts(self, file: str, sample: Sample, is_exact: bool) -> None:
        """Embed a sample's captions again."""
        for of, texts in {TEXT: [sample.caption], **sample.synthetic}.items():
            self._compare(file, sample, of, self._models.ensemble.embed_texts(texts), is_exact)

    def check_views(self, file: str, sample: Sample, views_NHWC: np.ndarray, is_exact: bool) -> None:
        """Embed a sample's views again."""
        self._compare(file, sample, IMAGE, self._models.ensemble.embed_images(views_NHWC), is_exact)

    def judge(self) -> None:
        """Enter the distances that rounding does not explain."""
        for inputs, embeddings in self._made.items():
            different_RD = np.unique(np.concatenate(embeddings), axis=0)
            self._spread[inputs] = spread(unit_rows(torch.from_numpy(different_RD)))
        for distance in self._distances:
            if distance.distance > self._tolerance(distance):
                said = f"teacher {distance.column.teacher} now embeds row {distance.row} {distance.distance:.2g}"
                problem = f"{array_name(distance.column.of)}: {said} from what is stored"
                self._findings.add(distance.file, distance.key, problem)

    def remark(self) -> None:
        """Name the teachers that put different inputs too close for a judgement."""
        for inputs, tolerance in dict.fromkeys((one.inputs, self._tolerance(one)) for one in self._distances):
            apart = self._spread[inputs]
            if apart <= tolerance:
                self._findings.remarks.append(
                    f"teacher {inputs[0]} puts different {inputs[1]} {apart:.2g} apart, which is within rounding here "
                    f"({tolerance:.2g}): whether they are in the right order cannot be told"
                )

    def _compare(self, file: str, sample: Sample, of: str, made: dict[str, np.ndarray], is_exact: bool) -> None:
        for teacher, made_RD in made.items():
            column = Column(teacher, of)
            rounded_RD = as_stored(self._models.codec, made_RD)
            distances_R = np.linalg.norm(sample.columns[column] - rounded_RD, axis=1)
            row = int(distances_R.argmax())
            distance = _Distance(file, sample.key, column, row, float(distances_R[row]), is_exact)
            self._distances.append(distance)
            if sum(map(len, self._made[distance.inputs])) < _MOST_KEPT:
                self._made[distance.inputs].append(rounded_RD)

    def _tolerance(self, distance: _Distance) -> float:
        apart = self._spread[distance.inputs]
        if distance.is_exact:
            return _SAME_ARITHMETIC * apart + self._models.codec.rounding
        return _OTHER_ARITHMETIC * apart + _OTHER_ROUNDING
