"""The sections about how well captions fit: by the teachers, and by the scorers. S: samples."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from dr_pipeline.dataset.sample import TEXT
from dr_pipeline.report.look.collection import Collection
from dr_pipeline.report.look.wording import kind, of_tables, share
from dr_pipeline.report.page.charts import Counts, density, histogram
from dr_pipeline.report.page.parts import note

if TYPE_CHECKING:
    from markupsafe import Markup

_NUM_BINS = 40
_FEWEST_BINS = 12
_MOST_CHARTS = 6
"""Of one kind."""


def similarity_section(found: Collection) -> "Iterator[Markup]":
    """Cosines of captions and views, by each teacher, and by one teacher against another."""
    teachers = dict(list(found.samples.teachers.items())[:_MOST_CHARTS])
    if not teachers:
        return
    yield note(
        "The cosine of a caption with the sample's views, mean over these; the mean over the captions of a key. "
        f"{of_tables(found)}"
    )
    for teacher, columns in teachers.items():
        ordered = dict(sorted(columns.items(), key=lambda item: item[0] != TEXT))
        better = [
            f"{kind(of)} above the alt-text in {_share_above(values_S, columns[TEXT])} of the samples"
            for of, values_S in ordered.items()
            if of != TEXT and TEXT in columns
        ]
        yield _distribution(teacher, {kind(of): values for of, values in ordered.items()}, "cosine", "; ".join(better))
    for one, other in list(combinations(teachers, 2))[:_MOST_CHARTS]:
        for of in sorted(teachers[one].keys() & teachers[other].keys(), key=lambda of: of != TEXT)[:2]:
            yield _against(one, teachers[one][of], other, teachers[other][of], kind(of))


def _against(one: str, x_S: np.ndarray, other: str, y_S: np.ndarray, of: str) -> "Markup":
    """Two teachers' cosines of the same captions."""
    both = np.isfinite(x_S) & np.isfinite(y_S)
    x_S, y_S = x_S[both].astype(float), y_S[both].astype(float)
    num_bins, ranges = _num_bins(len(x_S)) // 2, (_range(x_S), _range(y_S))
    counts, x_edges, y_edges = np.histogram2d(x_S, y_S, num_bins, ranges)
    varied = len(x_S) > 2 and x_S.std() > 0 and y_S.std() > 0
    remark = f"correlation {np.corrcoef(x_S, y_S)[0, 1]:.2f}" if varied else ""
    return density(f"{of}: teacher against teacher", counts, x_edges.tolist(), y_edges.tolist(), one, other, remark)


def scores_section(found: Collection) -> "Iterator[Markup]":
    """Histograms of each scorer's scores."""
    for name, values_S in list(found.samples.scorers.items())[:_MOST_CHARTS]:
        low, median, high = np.nanquantile(values_S, (0.05, 0.5, 0.95))
        remark = f"{low:.3g} (5 %), {median:.3g} (median), {high:.3g} (95 %)"
        yield _distribution(name, {name: values_S}, "score", remark)


def _distribution(title: str, values: Mapping[str, np.ndarray], x_label: str, remark: str = "") -> "Markup":
    """Histograms of several columns over shared bins; numbers that are not finite are left out."""
    finite = {name: column[np.isfinite(column)].astype(float) for name, column in values.items()}
    together = np.concatenate([*finite.values()])
    edges = np.linspace(*_range(together), _num_bins(len(together)) + 1).tolist()
    series = [Counts(name, np.histogram(column, edges)[0].tolist()) for name, column in finite.items()]
    return histogram(title, series, edges, x_label, remark=remark)


def _range(values: np.ndarray) -> tuple[float, float]:
    """From where to where bins lie; around a constant they are as wide as numbers of its size can be told apart."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    half = max(0.5, 1e-6 * abs(low)) if low == high else 0.0
    return low - half, high + half


def _num_bins(num_values: int) -> int:
    """So many bins that their counts still have a shape."""
    return min(_NUM_BINS, max(_FEWEST_BINS, int(2 * num_values**0.5)))


def _share_above(values_S: np.ndarray, others_S: np.ndarray) -> str:
    """The share of samples where one column is above the other, among those that have both."""
    has_both = np.isfinite(values_S) & np.isfinite(others_S)
    return share(float((values_S > others_S).sum()), float(has_both.sum()))
