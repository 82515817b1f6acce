"""The sections of the page of a dataset: the overview, the browser of samples, and what was skipped."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dr_pipeline.dataset.sample import FILTERED
from dr_pipeline.report.look.captions import captions_section
from dr_pipeline.report.look.collection import Collection
from dr_pipeline.report.look.models import models_of
from dr_pipeline.report.look.shard_counts import ShardCounts
from dr_pipeline.report.look.similarity import scores_section, similarity_section
from dr_pipeline.report.look.wording import RECTANGLES, kind, of_tables, plural, with_share
from dr_pipeline.report.look.work import run_section
from dr_pipeline.report.page.frame import Section
from dr_pipeline.report.page.parts import browser, facts, note, table, tally, warning
from dr_pipeline.report.units import in_bytes

if TYPE_CHECKING:
    from markupsafe import Markup

_MOST_CLASSES = 16


def make_sections(found: Collection) -> list[Section]:
    """The sections that there is something to say in."""
    made = {
        "Overview": _overview(found),
        "Similarity": similarity_section(found),
        "Scores": scores_section(found),
        "Captions": captions_section(found),
        "Classes": _classes(found),
        "Samples": _samples(found),
        "Skipped": _skipped(found),
        "Run": run_section(found),
    }
    sections = ((title, [*body]) for title, body in made.items())
    return [Section(title, body) for title, body in sections if body]


def _overview(found: Collection) -> "Iterator[Markup]":
    """Counts, and the models that made the dataset."""
    for problem in found.problems:
        yield warning(problem)
    if found.shards:
        yield facts(_counts(found.shards))
    else:
        read = {"samples read": f"{found.num_walked:,}"} if found.num_walked else {}
        yield facts({"shards": f"{len(found.reader.shards):,}", **read})
        if read:
            yield note("There is no manifest here: what follows is about the samples that were read.")
    if found.shards and found.shards.errors:
        yield table("Shards that failed", ["shard", "error"], found.shards.errors)
    yield from models_of(found.reader.config)


def _counts(shards: ShardCounts) -> dict[str, str]:
    """The sums over all shards, in words."""
    sums, num_filtered = shards.sums, shards.skipped[FILTERED]
    values = {
        "samples": f"{sums['num_written']:,}",
        "shards": f"{shards.num_done:,}",
        "views": f"{sums['num_views']:,}",
        "synthetic captions": f"{sums['num_synthetic']:,}",
        "size": in_bytes(sums["size_bytes"]),
        "skipped": with_share(shards.skipped.total() - num_filtered, sums["num_read"]),
    }
    if num_filtered:
        values["filtered"] = with_share(num_filtered, sums["num_read"])
    if shards.num_failed:
        values["failed shards"] = f"{shards.num_failed:,}"
    return values


def _classes(found: Collection) -> "Iterator[Markup]":
    """The classes of labelled images."""
    if found.labels:
        remark = f"{len(found.labels):,} classes among {found.labels.total():,} samples that were read."
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
    yield browser(shards, {of: kind(of) for of in kinds}, orders_by(scores, has_similarity))


def _choice(found: Collection, num_shown: int, num_shards: int) -> str:
    """How many of how many samples are shown, and which."""
    total = found.shards.sums["num_written"] if found.shards else None
    if total is not None and total <= num_shown:
        return f"All {num_shown:,} samples."
    how = "the first of each" if not found.samples.num_tables else "chosen by chance"
    if found.samples.teachers:
        how = "those that fit their alt-text best and worst, and others by chance"
    of_all = f" of {total:,}" if total is not None else ""
    return f"{num_shown:,}{of_all} samples, of {num_shards:,} of {plural(len(found.reader.shards), 'shard')}: {how}."


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
        shown, total = len(found.samples.skipped), found.samples.num_skipped
        remark = of_tables(found) + (f" The first {shown:,} of {total:,}." if shown < total else "")
        yield table("Skipped samples", ["key", "shard", "reason", "detail"], found.samples.skipped, remark)
