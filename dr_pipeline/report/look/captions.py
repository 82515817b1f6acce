"""The sections about captions: their lengths, words and faults, and how well they fit, by the teachers and the scorers.

S: samples.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from dr_pipeline.dataset.caption_faults import FAULTS
from dr_pipeline.dataset.reports import describe_usage
from dr_pipeline.dataset.sample import TEXT
from dr_pipeline.report.look.collection import Collection, kind
from dr_pipeline.report.page.charts import Counts, density, histogram
from dr_pipeline.report.page.parts import Bar, bars, note, table
from dr_pipeline.report.units import share
from dr_pipeline.words import plural

if TYPE_CHECKING:
    from markupsafe import Markup

_NUM_BINS = 40
_FEWEST_BINS = 12
_DRAWN = 0.995
"""The share of the captions that a chart of lengths is wide enough for, whatever the longest is."""
_MOST_WORDS = 16
_LONGEST_WORD = 32
"""Letters of a word that are shown."""
_MOST_CHARTS = 6
"""Of one kind."""


def captions_section(found: Collection) -> "Iterator[Markup]":
    """Nothing where the samples that were read have no captions."""
    if not found.captions:
        return
    yield note(f"Of {plural(found.num_walked, 'sample')} in {plural(found.num_shards_read, 'shard')} that were read.")
    yield _figures(found)
    yield _lengths(found)
    for of, counts in found.captions.items():
        common = counts.words.most_common(_MOST_WORDS)
        shares = [Bar(_shortened(word), number, share(number, counts.num_captions)) for word, number in common]
        yield bars(f"Words of {kind(of)}", shares, "Share of the captions that have the word.")
    used: dict[str, Counter[str]] = {}
    for report in found.reports:
        for key, usage in report.usage.items():
            used.setdefault(key, Counter()).update(usage)
    for key, summed in used.items():
        yield note(f"{describe_usage(key, summed)}, for {plural(len(found.reports), 'shard')} whose reports were read.")


def _shortened(word: str) -> str:
    return word if len(word) <= _LONGEST_WORD else f"{word[:_LONGEST_WORD]}…"


def _lengths(found: Collection) -> "Markup":
    """Histograms of the captions' words."""
    together = sorted(sum((counts.lengths for counts in found.captions.values()), Counter[int]()).items())
    lengths, up_to = [length for length, _ in together], np.cumsum([number for _, number in together])
    drawn = lengths[int(np.searchsorted(up_to, _DRAWN * up_to[-1]))]
    width = -(-(drawn + 1) // _NUM_BINS)
    starts = range(0, drawn + 1, width)
    series = []
    for of, counts in found.captions.items():
        captions = [0] * len(starts)
        for length, number in counts.lengths.items():
            captions[min(length // width, len(starts) - 1)] += number
        series.append(Counts(kind(of), captions))
    end = starts[-1] + width
    remark = f"The last step counts longer captions too, of up to {lengths[-1]:,} words." if lengths[-1] >= end else ""
    return histogram("Length of captions", series, [*starts, end], "words", "captions", remark)


def _figures(found: Collection) -> "Markup":
    """A row for each kind, with the faults of all that were drawn, by the reports that were read."""
    rows, faults = [], [f"{fault} %" for fault in FAULTS]
    for of, counts in found.captions.items():
        num_words = sum(length * number for length, number in counts.lengths.items())
        drawn: Counter[str] = Counter()
        for report in found.reports:
            drawn.update(report.captions.get(of, {}))
        drawn = drawn or counts.faults + Counter(drawn=counts.num_captions)
        rows.append(
            [
                kind(of),
                counts.num_captions,
                round(counts.num_captions / counts.num_samples, 2),
                round(num_words / counts.num_captions, 1),
                len(counts.words),
                *(round(100 * drawn[fault] / drawn["drawn"], 1) for fault in FAULTS),
            ]
        )
    return table("Captions by key", ["key", "captions", "a sample", "mean words", "distinct words", *faults], rows)


def similarity_section(found: Collection) -> "Iterator[Markup]":
    """Cosines of captions and views, by each teacher, and by one teacher against another."""
    teachers = dict(list(found.samples.teachers.items())[:_MOST_CHARTS])
    if not teachers:
        return
    yield note(
        "The cosine of a caption with the sample's views, mean over these; the mean over the captions of a key. "
        "Far to the left are captions that do not fit: the samples, worst first, show which they are. "
        f"{found.of_tables}"
    )
    for teacher, columns in teachers.items():
        ordered = dict(sorted(columns.items(), key=lambda item: item[0] != TEXT))
        better = []
        for of, values_S in ordered.items():
            if of != TEXT and TEXT in columns:
                has_both = np.isfinite(values_S) & np.isfinite(columns[TEXT])
                above = share(float((values_S > columns[TEXT]).sum()), float(has_both.sum()))
                better.append(f"{kind(of)} above the alt-text in {above} of the samples")
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
    agreement = (
        f"Correlation {np.corrcoef(x_S, y_S)[0, 1]:.2f}: the nearer to 1, the more the two agree. " if varied else ""
    )
    remark = f"{agreement}The darker, the more samples."
    return density(f"{of}: teacher against teacher", counts, x_edges.tolist(), y_edges.tolist(), one, other, remark)


def scores_section(found: Collection) -> "Iterator[Markup]":
    """Histograms of each scorer's scores, with the limits beyond which samples are filtered."""
    limits = {str(card.get("name")): (card.get("min"), card.get("max")) for card in found.models("scorers")}
    for name, values_S in list(found.samples.scorers.items())[:_MOST_CHARTS]:
        low, median, high = np.nanquantile(values_S, (0.05, 0.5, 0.95))
        bounds = zip(("from", "up to"), limits.get(name, ()), strict=False)
        kept = {f"{word} {limit:g}": limit for word, limit in bounds if isinstance(limit, int | float)}
        remark = f"Half of the scores are below {median:.3g}, 5 % below {low:.3g}, 5 % above {high:.3g}."
        drawn = [limit for limit in kept.values() if np.nanmin(values_S) <= limit <= np.nanmax(values_S)]
        if kept:
            remark += f" The job keeps samples {' '.join(kept)}{': dashed' if drawn else ''}."
        yield _distribution(name, {name: values_S}, "score", remark, drawn)


def _distribution(
    title: str, values: Mapping[str, np.ndarray], x_label: str, remark: str = "", marks: Sequence[float] = ()
) -> "Markup":
    """Histograms of several columns over shared bins; numbers that are not finite are left out."""
    finite = {name: column[np.isfinite(column)].astype(float) for name, column in values.items()}
    together = np.concatenate([*finite.values()])
    edges = np.linspace(*_range(together), _num_bins(len(together)) + 1).tolist()
    series = [Counts(name, np.histogram(column, edges)[0].tolist()) for name, column in finite.items()]
    return histogram(title, series, edges, x_label, remark=remark, marks=marks)


def _range(values: np.ndarray) -> tuple[float, float]:
    """From where to where bins lie; around a constant they are as wide as numbers of its size can be told apart."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    half = max(0.5, 1e-6 * abs(low)) if low == high else 0.0
    return low - half, high + half


def _num_bins(num_values: int) -> int:
    """So many bins that their counts still have a shape."""
    return min(_NUM_BINS, max(_FEWEST_BINS, int(2 * num_values**0.5)))
