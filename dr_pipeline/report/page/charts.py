"""Charts as SVG that is part of the page: lines, histograms, densities, and spreads of measured values.

Positions are per cent of the plot and texts have the page's size, so that a chart of any width can be read; colours are
the page's, in the light and in the dark. Lines and histograms have their figures as a table too, folded up.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dr_pipeline.report.page.frame import make_piece
from dr_pipeline.words import plural

if TYPE_CHECKING:
    from markupsafe import Markup

_MOST_TICKS = 5
_MOST_ROWS = 200
"""Of the table below a chart; of more points every so manyth is in it."""
_MOST_POINTS = 400
"""Of a curve; of a longer one neighbours are averaged, which as a band of ink would tell nothing."""
_MOST_DOTS = 30
"""Points of a curve that are drawn one by one."""
_MARGIN = 0.06
"""Of the axis on either side, beside all that a spread shows."""


@dataclass(frozen=True)
class Line:
    """A named curve; points that are no finite numbers are gaps. Curves of one name have one colour."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True)
class Counts:
    """A named histogram."""

    name: str
    counts: Sequence[float]
    """Of each bin; one fewer than there are edges."""


class _Tick(NamedTuple):
    percent: float
    text: str


@dataclass(frozen=True)
class _Axis:
    """Maps values to per cent of the plot's width or height."""

    low: float
    high: float
    label: str

    def percent(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 3)

    def percents(self, values: Sequence[float]) -> list[float]:
        """Of those values that lie on the axis."""
        return [self.percent(value) for value in values if self.low <= value <= self.high]

    @property
    def ticks(self) -> list[_Tick]:
        """At 1, 2 or 5 times a power of ten."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / _MOST_TICKS))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * _MOST_TICKS >= span * 0.999)
        values = [step * index for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [_Tick(self.percent(value), f"{value:,.6g}") for value in values]


def lines(
    title: str,
    series: Sequence[Line],
    x_label: str,
    y_label: str,
    marks: Sequence[float] = (),
    reaches: Sequence[float] = (),
) -> "Markup":
    """Curves over one axis; a point of a long one is the mean of its neighbours, which the chart says.

    `marks`: where on the x axis a vertical line stands; `reaches`: values that the y axis covers whatever is drawn.
    """
    points = [_averaged(_points(line)) for line in series]
    all_points = np.concatenate([*points, np.zeros((0, 2))])
    drawn = all_points[np.isfinite(all_points).all(axis=1)]
    if not len(drawn):
        return make_piece("charts.html", "empty", title, "there is nothing to draw")
    x_axis = _axis(drawn[:, 0], x_label)
    y_axis = _axis(np.append(drawn[:, 1], reaches), y_label)
    names = [*dict.fromkeys(line.name for line in series)]
    curves, rows = [], []
    for line, points_P2 in zip(series, points, strict=True):
        dots = ""
        if len(points_P2) <= _MOST_DOTS:  # lines without length, which round ends make dots of
            there = points_P2[~np.isnan(points_P2).any(axis=1)]
            dots = "".join(f"M{x_axis.percent(x):.6g} {100 - y_axis.percent(y):.6g}h0" for x, y in there)
        curves.append({"color": names.index(line.name), "path": _path(points_P2, x_axis, y_axis), "dots": dots})
        step = math.ceil(len(points_P2) / _MOST_ROWS) or 1
        rows += [(line.name, _short(x), _short(y)) for x, y in points_P2[::step].tolist()]
    at_marks = x_axis.percents(marks)
    said = "; ".join(f"{line.name} ends at {_short(line.ys[-1])}" for line in series if len(line.ys))
    numbers = ("curve", x_label, y_label), rows
    longest = max(_neighbours(len(line.xs)) for line in series)
    remark = f"A point is the mean of up to {longest:,} logged values." if longest > 1 else ""
    return make_piece("charts.html", "lines", title, names, curves, at_marks, x_axis, y_axis, said, numbers, remark)


def histogram(
    title: str,
    series: Sequence[Counts],
    edges: Sequence[float],
    x_label: str,
    y_label: str = "samples",
    remark: str = "",
    marks: Sequence[float] = (),
) -> "Markup":
    """Histograms over shared bins, one over the other.

    `edges`: of the bins, ascending. `remark`: a line below. `marks`: where on the x axis a vertical line stands.
    """
    highest = max((count for each in series for count in each.counts), default=0)
    if not highest:
        return make_piece("charts.html", "empty", title, "there is nothing to count")
    x_axis, y_axis = _Axis(edges[0], edges[-1], x_label), _Axis(0, highest * 1.05, y_label)
    areas = [{"name": each.name, "path": _steps(each.counts, edges, x_axis, y_axis)} for each in series]
    bins = [f"{_short(low)} to {_short(high)}" for low, high in pairwise(edges)]
    rows = [*zip(bins, *([_short(count) for count in each.counts] for each in series), strict=True)]
    said = "; ".join(f"{each.name}: {_summary(each.counts, edges)}" for each in series)
    header = (x_label, *(each.name for each in series))
    at_marks, numbers = x_axis.percents(marks), (header, rows)
    return make_piece("charts.html", "areas", title, areas, at_marks, x_axis, y_axis, said, numbers, remark)


def density(
    title: str,
    counts_XY: Any,
    x_edges: Sequence[float],
    y_edges: Sequence[float],
    x_label: str,
    y_label: str,
    remark: str = "",
) -> "Markup":
    """How often two values come together: the darker a cell, the more. `remark`: a line below."""
    counts_XY = np.asarray(counts_XY)
    if not counts_XY.any():
        return make_piece("charts.html", "empty", title, "there is nothing to count")
    x_axis, y_axis = _Axis(x_edges[0], x_edges[-1], x_label), _Axis(y_edges[0], y_edges[-1], y_label)
    cells = []
    for column, row in np.argwhere(counts_XY):
        left, right = (x_axis.percent(edge) for edge in x_edges[column : column + 2])
        bottom, top = (y_axis.percent(edge) for edge in y_edges[row : row + 2])
        share = float(counts_XY[column, row] / counts_XY.max())
        cells.append({"x": left, "y": 100 - top, "width": right - left, "height": top - bottom, "share": share**0.5})
    said = f"{plural(int(counts_XY.sum()), 'sample')}, most in a cell {int(counts_XY.max())}"
    return make_piece("charts.html", "cells", title, cells, x_axis, y_axis, said, remark)


def spread(title: str, values: Mapping[str, Sequence[float]], colors: Mapping[str, int]) -> "Markup":
    """A row a name, with a dot a value, in per cent, and a bar of mean ± standard deviation (n - 1).

    `colors`: name → number of its colour. A page with it has `spread.css` among its assets.
    """
    spans = {name: (mean(own), stdev(own) if len(own) > 1 else 0.0) for name, own in values.items()}
    ends = [end for middle, deviation in spans.values() for end in (middle - deviation, middle + deviation)]
    ends += [value for own in values.values() for value in own]
    margin = _MARGIN * (max(ends) - min(ends)) or 0.5
    low, high = min(ends) - margin, max(ends) + margin

    def percent(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    rows = [
        {
            "name": name,
            "color": colors[name] % 8,
            "dots": [percent(value) for value in values[name]],
            "span": (percent(middle - deviation), percent(middle), percent(middle + deviation)),
            "shown": f"{middle:.1f} ± {deviation:.1f}" if len(values[name]) > 1 else f"{middle:.1f}",
        }
        for name, (middle, deviation) in spans.items()
    ]
    axis = f"{low:.1f}", f"{high:.1f} %"
    return make_piece("spread.html", "spread", title, rows, axis)


def _points(line: Line) -> np.ndarray:
    """[points, 2], with NaN where there is a gap."""
    points_P2 = np.array([[*line.xs], [*line.ys]], dtype=float).T.reshape(-1, 2)
    points_P2[~np.isfinite(points_P2).all(axis=1)] = np.nan
    return points_P2


def _averaged(points_P2: np.ndarray) -> np.ndarray:
    """Points of which each is the mean of its neighbours, so that they are not too many; NaN where all of these are."""
    width = _neighbours(len(points_P2))
    padded = np.pad(points_P2, ((0, -len(points_P2) % width), (0, 0)), constant_values=np.nan)
    groups_GN2 = padded.reshape(-1, width, 2)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(groups_GN2, axis=1) / np.isfinite(groups_GN2).sum(axis=1))


def _neighbours(num_points: int) -> int:
    """How many points of a curve are drawn as one."""
    return math.ceil(num_points / _MOST_POINTS) or 1


def _path(points_P2: np.ndarray, x_axis: _Axis, y_axis: _Axis) -> str:
    """A curve as SVG has it, in per cent, with a new start behind each gap."""
    pieces, command = [], "M"
    for x, y in points_P2:
        if np.isnan(x):
            command = "M"
            continue
        pieces.append(f"{command}{x_axis.percent(x):.6g} {100 - y_axis.percent(y):.6g}")
        command = "L"
    return "".join(pieces)


def _steps(counts: Sequence[float], edges: Sequence[float], x_axis: _Axis, y_axis: _Axis) -> str:
    """The area below a histogram."""
    pieces = [f"M{x_axis.percent(edges[0]):.6g} 100"]
    for count, right in zip(counts, edges[1:], strict=True):
        pieces.append(f"V{100 - y_axis.percent(count):.6g}H{x_axis.percent(right):.6g}")
    return "".join([*pieces, "V100Z"])


def _axis(values: np.ndarray, label: str) -> _Axis:
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - abs(low or 1) / 2, high + abs(high or 1) / 2
    return _Axis(low, high, label)


def _summary(counts: Sequence[float], edges: Sequence[float]) -> str:
    """A histogram in a sentence."""
    total = sum(counts)
    if not total:
        return "none"
    middle = int(np.searchsorted(np.cumsum(counts), total / 2))
    return f"{_short(total)} in all, the median between {_short(edges[middle])} and {_short(edges[middle + 1])}"


def _short(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:.4g}"
