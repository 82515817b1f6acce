"""The section about captions: their lengths, words and faults, kind by kind."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dr_pipeline.dataset.caption_faults import FAULTS
from dr_pipeline.dataset.reports import describe_usage
from dr_pipeline.report.look.collection import Collection
from dr_pipeline.report.look.wording import kind, plural, share
from dr_pipeline.report.page.charts import Counts, histogram
from dr_pipeline.report.page.parts import Bar, bars, note, table

if TYPE_CHECKING:
    from markupsafe import Markup

_NUM_BINS = 40
_MOST_WORDS = 16


def captions_section(found: Collection) -> "Iterator[Markup]":
    """Nothing where the samples that were read have no captions."""
    if not found.captions:
        return
    yield note(f"Of {found.num_walked:,} samples in {plural(found.num_shards_read, 'shard')} that were read.")
    yield _lengths(found)
    for of, counts in found.captions.items():
        common = counts.words.most_common(_MOST_WORDS)
        shares = [Bar(word, number, share(number, counts.num_captions)) for word, number in common]
        yield bars(f"Words of {kind(of)}", shares, "Share of the captions that have the word.")
    yield _figures(found)
    used: dict[str, Counter[str]] = {}
    for report in found.reports:
        for key, usage in report.usage.items():
            used.setdefault(key, Counter()).update(usage)
    for key, summed in used.items():
        yield note(f"{describe_usage(key, summed)}, for {plural(len(found.reports), 'shard')} whose reports were read.")


def _lengths(found: Collection) -> "Markup":
    """Histograms of the captions' words."""
    longest = max(length for counts in found.captions.values() for length in counts.lengths)
    width = -(-(longest + 1) // _NUM_BINS)
    starts = range(0, longest + 1, width)
    series = []
    for of, counts in found.captions.items():
        captions = [0] * len(starts)
        for length, number in counts.lengths.items():
            captions[length // width] += number
        series.append(Counts(kind(of), captions))
    return histogram("Length", series, [*starts, starts[-1] + width], "words", "captions")


def _figures(found: Collection) -> "Markup":
    """A row for each kind."""
    rows, faults = [], [f"{fault} %" for fault in FAULTS]
    for of, counts in found.captions.items():
        num_words = sum(length * number for length, number in counts.lengths.items())
        drawn = _drawn(found, of) or counts.faults + Counter(drawn=counts.num_captions)
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


def _drawn(found: Collection, of: str) -> Counter[str]:
    """`drawn` captions of a key, and how many of these have which fault, by the reports that were read."""
    total: Counter[str] = Counter()
    for report in found.reports:
        total.update(report.captions.get(of, {}))
    return total
