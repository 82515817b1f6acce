"""The sections of the page of a dataset."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from dr_pipeline.dataset.caption_faults import FAULTS
from dr_pipeline.dataset.reports import describe_usage
from dr_pipeline.dataset.sample import FILTERED, TEXT
from dr_pipeline.report.look.collection import Collection
from dr_pipeline.report.page.charts import Counts, Line, density, histogram, lines
from dr_pipeline.report.page.frame import Section
from dr_pipeline.report.page.parts import Bar, bars, browser, facts, note, table, warning

if TYPE_CHECKING:
    from markupsafe import Markup

_NUM_BINS = 40
_MOST_CHARTS = 6
"""Of one kind."""
_MOST_BARS = 16


def make_sections(found: Collection) -> list[Section]:
    """The sections that there is something to say in."""
    made = {
        "Overview": _overview(found),
        "Similarity": _similarity(found),
        "Scores": _scores(found),
        "Captions": _captions(found),
        "Classes": _classes(found),
        "Samples": _samples(found),
        "Skipped": _skipped(found),
        "Run": _run(found),
    }
    sections = ((title, [*body]) for title, body in made.items())
    return [Section(title, body) for title, body in sections if body]


def _overview(found: Collection) -> "Iterator[Markup]":
    """Counts, and the models that made the dataset."""
    ours = found.reader.config.get("dr_pipeline", {})
    for problem in found.problems:
        yield warning(problem)
    values = {}
    if found.shards:
        sums = found.shards.sums
        num_skipped = found.shards.skipped.total()
        num_filtered = found.shards.skipped[FILTERED]
        values = {
            "samples": f"{sums['num_written']:,}",
            "shards": f"{found.shards.num_done:,}",
            "views": f"{sums['num_views']:,}",
            "synthetic captions": f"{sums['num_synthetic']:,}",
            "size": size(sums["size_bytes"]),
            "skipped": _of(num_skipped - num_filtered, sums["num_read"]),
        }
        values |= {"filtered": _of(num_filtered, sums["num_read"])} if num_filtered else {}
        values |= {"failed shards": f"{found.shards.num_failed:,}"} if found.shards.num_failed else {}
    else:
        values = {"shards": f"{len(found.reader.shards):,}"}
        values |= {"samples read": f"{found.num_walked:,}"} if found.num_walked else {}
    yield facts(values)
    if not found.shards and found.num_walked:
        yield note("There is no manifest here: what follows is about the samples that were read.")
    if found.shards and found.shards.errors:
        yield table("Shards that failed", ["shard", "error"], found.shards.errors)
    teachers = ours.get("teachers")
    if isinstance(teachers, list) and all(isinstance(teacher, dict) for teacher in teachers) and teachers:
        yield table("Teachers", ["name", "embeds", "dims", "image px", "logit scale"], map(_teacher, teachers))


def _teacher(teacher: Mapping[str, Any]) -> list[Any]:
    embeds = " and ".join(teacher.get("encodes") or ("images", "texts"))
    what = "probabilities of " if teacher.get("output") == "probabilities" else ""
    return [teacher.get("name"), what + embeds, *(teacher.get(name) for name in ("dim", "image_size", "logit_scale"))]


def _similarity(found: Collection) -> "Iterator[Markup]":
    """Cosines of captions and views, by each teacher, and by one teacher against another."""
    teachers = dict(list(found.samples.teachers.items())[:_MOST_CHARTS])
    if not teachers:
        return
    yield note(
        "The cosine of a caption with the sample's views, mean over these; the mean over the captions of a key. "
        f"{_of_tables(found)}"
    )
    for teacher, columns in teachers.items():
        ordered = dict(sorted(columns.items(), key=lambda item: item[0] != TEXT))
        better = [
            f"{kind(of)} above the alt-text in {_share(values_S > columns[TEXT])} of the samples"
            for of, values_S in ordered.items()
            if of != TEXT and TEXT in columns
        ]
        yield distribution(teacher, {kind(of): values for of, values in ordered.items()}, "cosine", "; ".join(better))
    for one, other in list(combinations(teachers, 2))[:_MOST_CHARTS]:
        for of in sorted(teachers[one].keys() & teachers[other].keys(), key=lambda of: of != TEXT)[:2]:
            yield _against(one, teachers[one][of], other, teachers[other][of], kind(of))


def _against(one: str, x_S: np.ndarray, other: str, y_S: np.ndarray, of: str) -> "Markup":
    """Two teachers' cosines of the same captions."""
    both = np.isfinite(x_S) & np.isfinite(y_S)
    x_S, y_S = x_S[both].astype(float), y_S[both].astype(float)
    counts, x_edges, y_edges = np.histogram2d(x_S, y_S, _NUM_BINS)
    varied = len(x_S) > 2 and x_S.std() > 0 and y_S.std() > 0
    remark = f"correlation {np.corrcoef(x_S, y_S)[0, 1]:.2f}" if varied else ""
    return density(f"{of}: teacher against teacher", counts, x_edges.tolist(), y_edges.tolist(), one, other, remark)


def _scores(found: Collection) -> "Iterator[Markup]":
    """Histograms of each scorer's scores."""
    for name, values_S in list(found.samples.scorers.items())[:_MOST_CHARTS]:
        low, median, high = np.nanquantile(values_S, (0.05, 0.5, 0.95))
        remark = f"{low:.3g} (5 %), {median:.3g} (median), {high:.3g} (95 %)"
        yield distribution(name, {name: values_S}, "score", remark)


def _captions(found: Collection) -> "Iterator[Markup]":
    """Lengths, words and faults of the captions, kind by kind."""
    if not found.captions:
        return
    yield note(f"Of {found.num_walked:,} samples in {_plural(found.num_shards_read, 'shard')} that were read.")
    longest = max(length for counts in found.captions.values() for length in counts.lengths)
    width = max(1, -(-(longest + 1) // _NUM_BINS))
    edges = [*range(0, longest + width + 1, width)]
    series = []
    for of, counts in found.captions.items():
        lengths = Counter(dict.fromkeys(edges[:-1], 0))
        for length, number in counts.lengths.items():
            lengths[length // width * width] += number
        series.append(Counts(kind(of), [lengths[start] for start in edges[:-1]]))
    yield histogram("Length", series, edges, "words", "captions")
    for of, counts in found.captions.items():
        common = counts.words.most_common(_MOST_BARS)
        shares = [Bar(word, number, f"{100 * number / counts.num_captions:.1f} %") for word, number in common]
        yield bars(f"Words of {kind(of)}", shares, "Share of the captions that have the word.")
    rows = []
    for of, counts in found.captions.items():
        words = sum(length * number for length, number in counts.lengths.items())
        per_sample, mean_words = counts.num_captions / counts.num_samples, words / max(1, counts.num_captions)
        drawn = _faults(found, of) or counts.faults
        faults = [drawn[fault] for fault in FAULTS]
        rows.append(
            [kind(of), counts.num_captions, round(per_sample, 2), round(mean_words, 1), len(counts.words), *faults]
        )
    yield table("Captions", ["key", "captions", "a sample", "mean words", "distinct words", *FAULTS], rows)
    for report in found.reports[:1]:
        for key, used in report.usage.items():
            yield note(f"{report.name}: {describe_usage(key, used)}")


def _faults(found: Collection, of: str) -> Counter[str]:
    """Faults of the captions that were drawn for a key, by the reports that were read."""
    total: Counter[str] = Counter()
    for report in found.reports:
        total.update(report.captions.get(of, {}))
    return total


def _classes(found: Collection) -> "Iterator[Markup]":
    """The classes of labelled images."""
    if found.labels:
        common = found.labels.most_common(_MOST_BARS)
        remark = f"{len(found.labels):,} classes among {found.labels.total():,} samples that were read."
        yield bars("Commonest classes", [Bar(label, count, f"{count:,}") for label, count in common], remark)


def _samples(found: Collection) -> "Iterator[Markup]":
    """The browser, and what it shows a part of."""
    shown, shards = found.cards, sorted({card["shard"] for card in found.cards})
    if not shown:
        return
    total = found.shards.sums["num_written"] if found.shards else None
    of_all = f" of {total:,}" if total is not None else ""
    chosen = (
        "those that fit their alt-text best and worst, and others by chance"
        if found.samples.num_tables
        else "the first"
    )
    said = (
        f"{len(shown):,}{of_all} samples, of {len(shards):,} of {_plural(len(found.reader.shards), 'shard')}: {chosen}."
    )
    if total is not None and total <= len(shown):
        said = f"All {len(shown):,} samples."
    yield note(f"{said} Each rectangle on an image is what a view shows of it: choose a view to see which.")
    kinds = dict.fromkeys(caption["of"] for card in shown for caption in card["captions"])
    scores = sorted({name for card in shown for name in card["scores"]})
    has_similarity = any(caption["similarity"] is not None for card in shown for caption in card["captions"])
    orders = orders_by(scores, has_similarity)
    yield browser(shards, {of: kind(of) for of in kinds}, orders)


def orders_by(scorers: Iterable[str], has_similarity: bool) -> dict[str, str]:
    """The orders that `samples.js` knows → their names."""
    orders = {"stored": "as stored"}
    if has_similarity:
        orders |= {"similarity up": "similarity, worst first", "similarity down": "similarity, best first"}
    for name in scorers:
        orders |= {f"score:{name} up": f"{name}, lowest first", f"score:{name} down": f"{name}, highest first"}
    return orders


def _skipped(found: Collection) -> "Iterator[Markup]":
    """Why samples are not in the dataset, and which."""
    if found.shards and found.shards.skipped:
        rows = [Bar(reason, count, f"{count:,}") for reason, count in found.shards.skipped.most_common()]
        yield bars("Samples by reason", rows)
    if found.shards and found.shards.passed_over:
        rows = [Bar(reason, count, f"{count:,}") for reason, count in found.shards.passed_over.most_common()]
        yield bars("Files that are no sample's", rows)
    if found.samples.skipped:
        shown, total = len(found.samples.skipped), found.samples.num_skipped
        remark = _of_tables(found) + (f" The first {shown:,} of {total:,}." if shown < total else "")
        yield table("Skipped samples", ["key", "shard", "reason", "detail"], found.samples.skipped, remark)


def _run(found: Collection) -> "Iterator[Markup]":
    """Seconds and bytes."""
    if found.shards:
        yield from _activity(found)
        seconds = found.shards.seconds
        stages = [(name, value) for name, value in seconds.most_common() if name not in ("total", "device")]
        rows = [Bar(name.replace("_", " "), value, duration(value)) for name, value in stages]
        yield bars("Seconds at work, by stage", rows, "Of all threads and shards together.")
    waited: Counter[str] = Counter()
    for report in found.reports:
        waited.update(report.waited_seconds)
    if waited.total():
        rows = [Bar(name, value, duration(value)) for name, value in waited.most_common() if value]
        yield bars(
            "Seconds waited, by stage", rows, f"Of {_plural(len(found.reports), 'shard')} whose reports were read."
        )
    if found.member_bytes:
        count = len(found.cards)
        rows = [Bar(ext, total, size(total / count)) for ext, total in found.member_bytes.most_common(_MOST_BARS)]
        yield bars("Bytes of a sample, by member", rows, f"Mean over {count:,} samples.")


def _activity(found: Collection) -> "Iterator[Markup]":
    """When how much was done."""
    shards = found.shards
    assert shards is not None
    values = {}
    if shards.seconds["total"]:
        values["time of all shards"] = duration(shards.seconds["total"])
        values["device busy"] = _share_of(shards.seconds["device"], shards.seconds["total"])
    if found.timeline:
        ended = datetime.fromtimestamp(found.timeline.ended_at, UTC)
        values["from first to last"] = duration(found.timeline.ended_at - found.timeline.began_at)
        values["ended"] = f"{ended:%Y-%m-%d %H:%M} UTC"
    if values:
        yield facts(values)
    if found.timeline:
        _, _, hours_T, busy_T, samples_T = found.timeline
        yield lines("Device busy", [Line("busy", hours_T, busy_T)], "hours", "% of the time")
        yield lines("Samples per second", [Line("samples/s", hours_T, samples_T)], "hours", "samples/s")


def distribution(title: str, values: Mapping[str, np.ndarray], x_label: str, remark: str = "") -> "Markup":
    """Histograms of several columns over shared bins; numbers that are not finite are left out."""
    finite = {name: column[np.isfinite(column)].astype(float) for name, column in values.items()}
    together = np.concatenate([*finite.values()])
    edges = np.histogram_bin_edges(together, _NUM_BINS).tolist() if len(together) else [0.0, 1.0]
    series = [Counts(name, np.histogram(column, edges)[0].tolist()) for name, column in finite.items()]
    return histogram(title, series, edges, x_label, remark=remark)


def kind(of: str) -> str:
    """What a kind of captions is called."""
    return "alt-text" if of == TEXT else of


def size(count: float) -> str:
    """Bytes as they are read."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} PB"


def duration(seconds: float) -> str:
    """A time as it is read."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _of_tables(found: Collection) -> str:
    total = len(found.reader.shards)
    if found.samples.num_tables >= total:
        return f"All {found.samples.num_rows:,} samples."
    tables = f"{found.samples.num_tables:,} of {_plural(total, 'shard')}"
    return f"{found.samples.num_rows:,} samples of {tables}, chosen by chance."


def _of(count: float, total: float) -> str:
    return f"{count:,} ({_share_of(count, total)})" if count and total else f"{count:,}"


def _share(is_so: np.ndarray) -> str:
    return _share_of(float(is_so.sum()), len(is_so))


def _share_of(part: float, whole: float) -> str:
    return f"{100 * part / whole:.3g} %" if whole else "–"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
