"""The sections of the page of a dataset: the overview, the browser of samples, what was skipped, and the run."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dr_pipeline.config.cards import caption_key_of
from dr_pipeline.dataset.sample import FILTERED
from dr_pipeline.report.look.captions import captions_section, scores_section, similarity_section
from dr_pipeline.report.look.collection import Collection, kind
from dr_pipeline.report.look.shard_counts import Timeline
from dr_pipeline.report.page.charts import Line, lines
from dr_pipeline.report.page.frame import Section
from dr_pipeline.report.page.parts import Bar, bars, browser, facts, note, table, tally, warning
from dr_pipeline.report.units import in_bytes, in_time, in_utc, share
from dr_pipeline.words import plural

if TYPE_CHECKING:
    from markupsafe import Markup

RECTANGLES = "A rectangle on an image is what the view of its colour shows: choose a view for it alone."
_MOST_CLASSES = 16
_MOST_MEMBERS = 16


def make_sections(found: Collection) -> list[Section]:
    """The sections that there is something to say in."""
    made = {
        "Overview": _overview(found),
        "Skipped": _skipped(found),
        "Similarity": similarity_section(found),
        "Scores": scores_section(found),
        "Captions": captions_section(found),
        "Classes": _classes(found),
        "Samples": _samples(found),
        "Run": _run(found),
    }
    sections = ((title, [*body]) for title, body in made.items())
    return [Section(title, body) for title, body in sections if body]


def _overview(found: Collection) -> "Iterator[Markup]":
    """Counts, and the models that made the dataset."""
    for remark in filter(None, [found.reader.unfinished, *found.problems]):
        yield warning(remark)
    if shards := found.shards:
        if shards.num_failed:
            total = plural(shards.num_failed + shards.num_done, "shard")
            yield warning(f"{shards.num_failed:,} of {total} failed: their samples are missing; run the job once more.")
        sums = shards.sums
        values = {
            "samples": f"{sums['num_written']:,}",
            "shards": f"{shards.num_done:,}",
            "views": f"{sums['num_views']:,}",
            "synthetic captions": f"{sums['num_synthetic']:,}",
            "size": in_bytes(sums["size_bytes"]),
            "skipped": _with_share(shards.num_skipped, sums["num_read"]),
        }
        if shards.num_filtered:
            values["filtered"] = _with_share(shards.num_filtered, sums["num_read"])
        yield facts(values)
        if shards.errors:
            yield table("Shards that failed", ["shard", "error"], shards.errors)
    else:
        read = {"samples read": f"{found.num_walked:,}"} if found.num_walked else {}
        yield facts({"shards": f"{len(found.reader.shards):,}", **read})
        if found.samples.num_tables and not found.reader.is_tar:
            yield note("What follows is about the shards that are there by now: a run writes their table at its end.")
        elif read:
            yield note("There is no manifest here: what follows is about the samples that were read.")
    yield from _models(found)


def _with_share(count: int, total: int) -> str:
    """A count, and what part of all it is."""
    return f"{count:,} ({share(count, total)})" if count and total else f"{count:,}"


def _models(found: Collection) -> "Iterator[Markup]":
    """A table of the teachers, one of what writes captions, and one of the scorers, where there are any."""
    teachers = []
    for card in found.models("teachers"):
        encodes = card.get("encodes")
        inputs = " and ".join(map(str, encodes)) if isinstance(encodes, list) else "images and texts"
        gives = "probabilities" if card.get("output") == "probabilities" else "embeddings"
        sizes = (card.get(name) for name in ("dim", "image_size", "logit_scale"))
        teachers.append([card.get("name"), f"{gives} of {inputs}", *sizes])
    writers = []
    for kind_of_card in ("captioner", "rewriter"):
        for card in found.models(f"{kind_of_card}s"):
            tag, sampling = card.get("tag"), card.get("sampling")
            method = sampling.get("method") if isinstance(sampling, dict) else None
            key, words = caption_key_of(str(tag) if tag else None), str(method or "").replace("_", " ")
            writers.append([card.get("name"), kind_of_card, key, words, card.get("num_captions")])
    scorers = [[card.get(name) for name in ("name", "min", "max")] for card in found.models("scorers")]
    if teachers:
        yield table("Teachers", ["name", "gives", "dims", "image px", "logit scale"], teachers)
    if writers:
        yield table("Captions", ["name", "kind", "key", "sampling", "captions a sample"], writers)
    if scorers:
        yield table("Scorers", ["name", "lowest that is kept", "highest that is kept"], scorers)


def _classes(found: Collection) -> "Iterator[Markup]":
    """The classes of labelled images."""
    if found.labels:
        remark = f"{plural(len(found.labels), 'class')} among {plural(found.labels.total(), 'sample')} that were read."
        yield tally("Commonest classes", found.labels.most_common(_MOST_CLASSES), remark)


def _samples(found: Collection) -> "Iterator[Markup]":
    """The browser, and what it shows a part of."""
    shown, shards = found.cards, sorted({card["shard"] for card in found.cards})
    if not shown:
        return
    yield note(f"{_choice(found, len(shown), len(shards))} {RECTANGLES}")
    kinds = dict.fromkeys(caption["of"] for card in shown for caption in card["captions"])
    scores = sorted({name for card in shown for name in card["scores"]})
    has_similarity = any(caption["similarity"] is not None for card in shown for caption in card["captions"])
    orders = orders_by(scores, has_similarity)
    worst_first = {order: orders[order] for order in sorted(orders, key=lambda order: order != "similarity up")}
    yield browser(shards, {of: kind(of) for of in kinds}, worst_first)


def _choice(found: Collection, num_shown: int, num_shards: int) -> str:
    """How many of how many samples are shown, and which."""
    total = found.shards.sums["num_written"] if found.shards else None
    if total is not None and total <= num_shown:
        return f"All {plural(num_shown, 'sample')}."
    how = "the first of each" if not found.samples.num_tables else "chosen by chance"
    if found.samples.teachers:
        how = "those that fit their alt-text best and worst, and others by chance"
    shown = f"{num_shown:,} of {plural(total, 'sample')}" if total is not None else plural(num_shown, "sample")
    return f"{shown}, of {num_shards:,} of {plural(len(found.reader.shards), 'shard')}: {how}."


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
        yield tally("Samples by reason", found.shards.skipped.most_common())
    if found.shards and found.shards.passed_over:
        yield tally("Files that are no sample's", found.shards.passed_over.most_common())
    if found.samples.skipped:
        named = sorted(found.samples.skipped.items(), key=lambda item: item[0] == FILTERED)
        rows, total = [row for _, rows in named for row in rows], found.samples.num_skipped
        remark = found.of_tables + (f" The first of each reason: {len(rows):,} of {total:,}." * (len(rows) < total))
        yield table("Skipped samples", ["key", "shard", "reason", "detail"], rows, remark)


def _run(found: Collection) -> "Iterator[Markup]":
    """Seconds at work and waiting, and bytes of the members."""
    timeline = found.shards.timeline if found.shards else None
    if found.shards and (total := found.shards.seconds["total"]):
        values = {"time of all shards": in_time(total), "device busy": share(found.shards.seconds["device"], total)}
        if timeline:
            values["from first to last"] = in_time(timeline.ended_at - timeline.began_at)
            values["ended"] = in_utc(timeline.ended_at)
        yield facts(values)
    if timeline:
        yield from _curves(timeline)
    if found.shards and (stages := Counter(found.shards.seconds)):
        del stages["total"], stages["device"]
        yield bars("Time at work, by stage", _bars(stages), "Of all threads and shards, which work side by side.")
    waited: Counter[str] = Counter()
    for report in found.reports:
        waited.update(report.waited_seconds)
    if waited.total():
        remark = f"For other stages, in {plural(len(found.reports), 'shard')} whose reports were read."
        yield bars("Time waited, by stage", _bars(waited), remark)
    if found.member_bytes:
        count = len(found.cards)
        rows = [
            Bar(ext, total, in_bytes(total / count)) for ext, total in found.member_bytes.most_common(_MOST_MEMBERS)
        ]
        yield bars("Size of a sample, by member", rows, f"Mean over {plural(count, 'sample')}.")


def _curves(timeline: Timeline) -> "Iterator[Markup]":
    """How busy the device was, and how many samples were written, over time."""
    hours = (timeline.ended_at - timeline.began_at) / 3600
    unit, factor = ("hours", 1) if hours > 2 else ("minutes", 60) if hours > 1 / 30 else ("seconds", 3600)
    times_T = [factor * value for value in timeline.hours_T]
    busy, rate = Line("busy", times_T, timeline.busy_T), Line("rate", times_T, timeline.samples_per_s_T)
    yield lines("Device busy", [busy], unit, "% of the time", reaches=(0, 100))
    yield lines("Samples per second", [rate], unit, "samples/s", reaches=(0,))


def _bars(seconds: Counter[str]) -> list[Bar]:
    """Bars of stages, the longest first, all in the unit that fits the longest."""
    longest = max(seconds.values(), default=0)
    unit, factor = ("h", 3600) if longest > 7200 else ("min", 60) if longest > 120 else ("s", 1)
    rows = []
    for name, value in seconds.most_common():
        if value:
            count = value / factor
            shown = f"{count:,.0f}" if count >= 100 else f"{count:.1f}" if count >= 0.1 else "< 0.1"
            rows.append(Bar(name.replace("_", " "), value, f"{shown} {unit}"))
    return rows
