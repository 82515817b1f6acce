"""The section about the run that made a dataset: when it worked on what, and how long."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dr_pipeline.report.look.collection import Collection
from dr_pipeline.report.look.shard_counts import ShardCounts, Timeline
from dr_pipeline.report.look.wording import plural, share
from dr_pipeline.report.page.charts import Line, lines
from dr_pipeline.report.page.parts import Bar, bars, facts
from dr_pipeline.report.units import in_bytes, in_time, in_utc

if TYPE_CHECKING:
    from markupsafe import Markup

_MOST_MEMBERS = 16


def run_section(found: Collection) -> "Iterator[Markup]":
    """Seconds at work and waiting, and bytes of the members."""
    if found.shards and found.shards.seconds["total"]:
        yield facts(_facts(found.shards, found.timeline))
    if found.timeline:
        yield from _curves(found.timeline)
    if found.shards and (stages := Counter(found.shards.seconds)):
        del stages["total"], stages["device"]
        yield bars("Time at work, by stage", _bars(stages), "Of all threads and shards together.")
    waited: Counter[str] = Counter()
    for report in found.reports:
        waited.update(report.waited_seconds)
    if waited.total():
        remark = f"Of {plural(len(found.reports), 'shard')} whose reports were read."
        yield bars("Time waited, by stage", _bars(waited), remark)
    if found.member_bytes:
        count = len(found.cards)
        rows = [
            Bar(ext, total, in_bytes(total / count)) for ext, total in found.member_bytes.most_common(_MOST_MEMBERS)
        ]
        yield bars("Size of a sample, by member", rows, f"Mean over {plural(count, 'sample')}.")


def _facts(shards: ShardCounts, timeline: Timeline | None) -> dict[str, str]:
    total = shards.seconds["total"]
    values = {"time of all shards": in_time(total), "device busy": share(shards.seconds["device"], total)}
    if timeline:
        values["from first to last"] = in_time(timeline.ended_at - timeline.began_at)
        values["ended"] = in_utc(timeline.ended_at)
    return values


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
    stages = [(name, value) for name, value in seconds.most_common() if value]
    return [Bar(name.replace("_", " "), value, f"{_short(value / factor)} {unit}") for name, value in stages]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
