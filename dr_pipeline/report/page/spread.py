"""A piece of a page that compares measured values: of each name all its values, their mean and standard deviation."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING

from dr_pipeline.report.page.frame import make_piece

if TYPE_CHECKING:
    from markupsafe import Markup

_MARGIN = 0.06
"""Of the axis on either side, beside all that is drawn."""


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
