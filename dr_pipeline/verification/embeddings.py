"""Stored embeddings against those that the teachers give now.

Shapes: R rows of a column, a row a view or a caption, D dims.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from dr_pipeline.codecs.codec import Codec, as_stored
from dr_pipeline.dataset.layout import array_name
from dr_pipeline.dataset.probabilities import densified
from dr_pipeline.dataset.sample import IMAGE, PROBS_INDICES, PROBS_VALUES, Column, Sample
from dr_pipeline.models.distance import spread, unit_rows
from dr_pipeline.verification.findings import Findings

_SAME_ARITHMETIC, _OTHER_ARITHMETIC = 5e-3, 0.1
_OTHER_ROUNDING = 0.01
"""How far recomputed embeddings may be from the stored ones: a share of the teacher's spread, which is the distance
between its embeddings of different inputs, and a constant. All are relative to the length of the vectors.

Where both sides were computed in float32 on one kind of device, batches, threads and processors explain no more than
the first share (measured on one CPU: 4e-7, at a spread of 1), and the constant is the codec's, because rounding what is
stored may change a last bit. bfloat16 arithmetic on either side takes the others (measured: 0.07, at a spread of 1).
A model with random weights may have a spread of 0.0005: a constant alone would find no swapped images there, or would
take rounding for a fault. For a teacher in float8 the error that was measured when it was loaded is added.
"""
_MOST_KEPT = 512
"""Embeddings of a teacher that its spread is measured on."""
_CLASSIFIERS = "mean of the classifiers"
"""In the place of a teacher, whose name holds no blank."""


class _Distance(NamedTuple):
    """The row of a sample's column that is the farthest from its recomputed one."""

    file: str
    key: str
    column: Column
    row: int
    distance: float
    is_exact: bool

    @property
    def inputs(self) -> tuple[str, str]:
        """The teacher, and what it was given."""
        return self.column.teacher, "images" if self.column.of == IMAGE else "texts"


class EmbeddingComparison:
    """Collects the distances of stored columns to recomputed ones. At the end, each teacher's spread tells which of
    them rounding explains.
    """

    def __init__(self, codec: Codec, findings: Findings, float8_distances: Mapping[str, float]):
        """`float8_distances`: how far float8 takes the embeddings of the teachers that were computed in it."""
        self._codec, self._findings, self._float8_distances = codec, findings, float8_distances
        self._distances: list[_Distance] = []
        self._recomputed: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
        """(teacher, images or texts) → arrays [R, D]."""

    @property
    def largest_distance(self) -> float:
        """Of all stored embeddings to recomputed ones."""
        return max((distance.distance for distance in self._distances), default=0)

    def check(self, file: str, sample: Sample, of: str, columns: dict[str, np.ndarray], is_exact: bool) -> None:
        """Compare a sample's stored columns of these views or captions with what the teachers, by name, give now.

        `is_exact`: whether both sides were computed in the same float32 arithmetic.
        """
        for teacher, column_RD in columns.items():
            column = Column(teacher, of)
            recomputed_RD = as_stored(self._codec, column_RD)
            lengths_R = np.maximum(np.linalg.norm(recomputed_RD, axis=1), np.finfo(np.float32).tiny)
            distances_R = np.linalg.norm(sample.columns[column] - recomputed_RD, axis=1) / lengths_R
            row = int(distances_R.argmax())
            distance = _Distance(file, sample.key, column, row, float(distances_R[row]), is_exact)
            self._distances.append(distance)
            if sum(map(len, self._recomputed[distance.inputs])) < _MOST_KEPT:
                self._recomputed[distance.inputs].append(recomputed_RD)

    def check_probabilities(
        self, file: str, sample: Sample, now: tuple[np.ndarray, np.ndarray], num_classes: int, is_exact: bool
    ) -> None:
        """Compare a sample's stored sparse probabilities with what the classifiers give now: values and indices."""
        values_NK, indices_NK = as_stored(self._codec, now[0]), now[1]
        stored = sample.columns[Column(PROBS_VALUES, IMAGE)], sample.columns[Column(PROBS_INDICES, IMAGE)]
        sample.columns[Column(_CLASSIFIERS, IMAGE)] = densified(stored, (values_NK, indices_NK), num_classes)
        now_NM = densified((values_NK, indices_NK), stored, num_classes)
        self.check(file, sample, IMAGE, {_CLASSIFIERS: now_NM}, is_exact)

    def close(self) -> None:
        """Report the distances that rounding does not explain, and remark the teachers that cannot be checked."""
        spreads: dict[tuple[str, str], float] = {}
        for inputs, arrays in self._recomputed.items():
            different_RD = np.unique(np.concatenate(arrays), axis=0)
            spreads[inputs] = spread(unit_rows(torch.from_numpy(different_RD)))
        remarks: dict[str, None] = {}
        for distance in self._distances:
            apart = spreads[distance.inputs]
            if distance.is_exact:
                tolerance = _SAME_ARITHMETIC * apart + self._codec.rounding
            else:
                float8 = self._float8_distances.get(distance.column.teacher, 0.0)
                tolerance = _OTHER_ARITHMETIC * apart + _OTHER_ROUNDING + float8
            teacher, inputs_name = distance.inputs
            if distance.distance > tolerance:
                name = array_name(distance.column.of, PROBS_VALUES if teacher == _CLASSIFIERS else "")
                said = f"teacher {teacher} now embeds row {distance.row} {distance.distance:.2g}"
                problem = f"{name}: {said} from what is stored"
                self._findings.add(distance.file, problem, distance.key)
            if apart <= tolerance:
                remarks[
                    f"teacher {teacher} puts different {inputs_name} {apart:.2g} apart, which is within rounding here "
                    f"({tolerance:.2g}): whether they are in the right order cannot be told"
                ] = None
        self._findings.remarks += remarks
