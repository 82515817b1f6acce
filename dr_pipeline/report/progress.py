"""The progress of a run: a bar on a terminal, plain lines elsewhere, JSON lines for machines."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.redaction import printable
from dr_pipeline.report.snapshot import Snapshot
from dr_pipeline.report.terminal import draws_bars
from dr_pipeline.report.units import in_clock

_NO_SAMPLE = "no sample, as its tar has no member"
_EVERY_SECONDS = 30.0
"""Between two lines, or two records, that say how far a run is."""
_FIRST_SECONDS = 10.0
"""Until the first of them, and until a model takes so long to load that it is named."""
_MOST_LINES = 20
"""Shards that have a line of their own in that time; the others are counted in the next line."""


class FiguresBar(Progress):
    """A bar on standard error, with the field `figures` of its task, a text, below it in as many lines as it needs."""

    def __init__(self, unit: str, *columns: ProgressColumn):
        """`unit`: what it counts. `columns`: what stands behind the time that has passed."""
        counted = [MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn()]
        name = TextColumn("{task.description}", markup=False)
        super().__init__(name, BarColumn(), *counted, *columns, console=Console(stderr=True))

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, and its figures."""
        yield self.make_tasks_table(self.tasks)
        yield from (Text(task.fields["figures"]) for task in self.tasks)


def print_above(bar: Progress, line: str, style: str | None = None) -> None:
    """Print a line above a bar, as it is."""
    bar.console.print(printable(line), style=style, markup=False, highlight=False)


def print_line(line: str) -> None:
    """Print to standard error, at once."""
    print(printable(line), file=sys.stderr, flush=True)


def figures_of(snapshot: Snapshot) -> str:
    """How fast a run is, and what holds it, in words; or what it still loads."""
    if snapshot.loading:
        return f"{_workers(snapshot)}: loading {snapshot.loading} for {in_clock(snapshot.loading_seconds)}"
    if not snapshot.num_read:
        return _workers(snapshot)
    if not snapshot.num_samples:
        done = f"{snapshot.num_read:,} samples read, {snapshot.num_captions:,} captions drawn"
        return f"{done}, {snapshot.num_views:,} views embedded, {_workers(snapshot)}"
    figures = [
        f"{snapshot.samples_per_second:,.1f} samples/s ({snapshot.mean_samples_per_second:,.1f} on average)",
        f"{snapshot.views_per_second:,.1f} views/s",
    ]
    if snapshot.captions_per_second:
        figures.append(f"{snapshot.captions_per_second:,.1f} captions/s")
    if snapshot.usage.get("cost"):
        figures.append(f"cost {snapshot.usage['cost']:,.2f}")
    if snapshot.device_busy is not None:
        figures.append(f"device busy {snapshot.device_busy:.0%}")
    if snapshot.limited_by:
        figures.append(f"limited by {snapshot.limited_by} ({snapshot.limited_share:.0%})")
    if snapshot.num_filtered:
        figures.append(f"{snapshot.num_filtered:,} filtered")
    figures.append(f"{snapshot.num_skipped:,} skipped")
    return ", ".join([*figures, _workers(snapshot)] if snapshot.num_working else figures)


def line_of(snapshot: Snapshot) -> str:
    """How far a run is, in a line."""
    parts = [f"{snapshot.num_done:,} of {snapshot.num_shards:,} shards"]
    if snapshot.num_failed:
        parts[0] += f", {snapshot.num_failed:,} failed"
    if snapshot.num_samples:
        expected = snapshot.expected_samples or snapshot.num_samples
        about = "" if expected == snapshot.num_samples else f" of about {expected:,}"
        parts.append(f"{snapshot.num_samples:,}{about} samples")
    if snapshot.seconds_left:
        parts.append(f"{in_clock(snapshot.seconds_left)} left")
    return f"{', '.join(parts)}; {figures_of(snapshot)}"


def _workers(snapshot: Snapshot) -> str:
    parts = [f"{snapshot.num_working:,} at work"] if snapshot.num_working else []
    parts += [f"{snapshot.num_loading:,} loading"] if snapshot.num_loading else []
    parts += [f"{snapshot.num_pending:,} not begun"] if snapshot.num_pending else []
    total = snapshot.num_working + snapshot.num_loading + snapshot.num_pending
    words = "1 worker" if total == 1 else f"{total:,} workers"
    return words if total == snapshot.num_working or total == 0 else f"{words} ({', '.join(parts)})"


def describe_skips(skipped: Mapping[str, int]) -> str:
    """Reasons with their numbers of samples, the most frequent first."""
    ordered = sorted(skipped.items(), key=lambda item: -item[1])
    return f"skipped: {', '.join(f'{reason} {number:,}' for reason, number in ordered)}"


class Pace:
    """Says when a line is due: once a model has been loading for long, once there are models, once there is a sample,
    and every half minute.
    """

    def __init__(self) -> None:
        self._next = time.monotonic() + _FIRST_SECONDS
        self._stage = (False, False)
        self._loading: str | None = None

    def is_due(self, snapshot: Snapshot) -> bool:
        """Whether to print this one."""
        now, stage = time.monotonic(), (snapshot.num_working > 0, snapshot.num_samples > 0)
        is_new = snapshot.loading != self._loading and snapshot.loading_seconds > _FIRST_SECONDS
        if now < self._next and stage <= self._stage and not is_new:
            return False
        self._next, self._stage, self._loading = now + _EVERY_SECONDS, stage, snapshot.loading
        return True


class BarProgress:
    """A bar of shards with rates and the time that is left."""

    def __init__(self) -> None:
        self._progress = FiguresBar("shards")

    def planned(self, plan: Plan) -> None:
        """Show the bar, and a line for each kind of file that is left out."""
        total = len(plan.todo) + len(plan.done)
        self._progress.start()
        self._bar = self._progress.add_task(
            printable(plan.job.name), total=total, completed=len(plan.done), figures="loading models"
        )
        for left_out in plan.left_out:
            print_above(self._progress, f"left out {left_out}")

    def progressed(self, snapshot: Snapshot) -> None:
        """Move the bar."""
        ended = snapshot.num_done + snapshot.num_failed
        left = f"{in_clock(snapshot.seconds_left)} left; " if snapshot.seconds_left else ""
        self._progress.update(self._bar, completed=ended, figures=printable(f"{left}{figures_of(snapshot)}"))

    def reported(self, report: ShardReport) -> None:
        """A failed shard, and one without samples, has a line above the bar."""
        if report.status == "failed":
            print_above(self._progress, f"failed {report.name}: {report.error}", "red")
        elif not report.num_read:
            print_above(self._progress, f"done {report.name}: {_NO_SAMPLE}", "yellow")

    def close(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


class LineProgress:
    """A line every half minute, and one for each shard where there are not many, for logs."""

    def __init__(self) -> None:
        self._num_lines: Counter[str] = Counter()
        self._last: Snapshot | None = None

    def planned(self, plan: Plan) -> None:
        """Say how many shards there are to do."""
        self._left = len(plan.todo)
        self._pace = Pace()
        print_line(f"{plan.job.name}: {len(plan.todo)} shards to do, {len(plan.done)} done; loading models")
        for left_out in plan.left_out:
            print_line(f"left out {left_out}")

    def progressed(self, snapshot: Snapshot) -> None:
        """Say how far the run is, every half minute."""
        self._last = snapshot
        if self._pace.is_due(snapshot):
            self._say_all()

    def reported(self, report: ShardReport) -> None:
        """Say how a shard ended, but of no more than some in half a minute."""
        self._left -= 1
        self._num_lines[report.status] += 1
        if self._num_lines[report.status] > _MOST_LINES:
            return
        if report.status == "failed":
            print_line(f"failed {report.name}: {report.error}")
        else:
            samples = f"{report.num_written} of {report.num_read} samples" if report.num_read else _NO_SAMPLE
            if report.passed_over:
                samples += f", {sum(report.passed_over.values())} members passed over"
            seconds = report.seconds["total"]
            print_line(f"done {report.name}: {samples}, {report.num_views} views, {seconds:.1f} s; {self._left} left")

    def close(self) -> None:
        """Say how far the run came."""
        if self._num_lines:
            self._say_all()

    def _say_all(self) -> None:
        for status, number in self._num_lines.items():
            if number > _MOST_LINES:
                print_line(f"{status} {number - _MOST_LINES:,} shards more")
        self._num_lines.clear()
        if self._last:
            print_line(line_of(self._last))


class JsonProgress:
    """A JSON object per shard, and one every half minute, on standard output."""

    def planned(self, plan: Plan) -> None:
        """An object with the numbers of shards to do and done."""
        self._pace = Pace()
        left_out = [asdict(left_out) for left_out in plan.left_out]
        planned = {"event": "planned", "todo": len(plan.todo), "done": len(plan.done), "left_out": left_out}
        print(json.dumps(planned), flush=True)

    def progressed(self, snapshot: Snapshot) -> None:
        """An object every half minute: the snapshot."""
        if self._pace.is_due(snapshot):
            print(json.dumps({"event": "progress", **snapshot.to_tree()}), flush=True)

    def reported(self, report: ShardReport) -> None:
        """One object per shard: its report."""
        print(json.dumps({"event": "shard", **asdict(report)}), flush=True)

    def close(self) -> None:
        """Lines need no end."""


def progress(as_json: bool) -> BarProgress | LineProgress | JsonProgress:
    """The display that suits where the output goes."""
    if as_json:
        return JsonProgress()
    return BarProgress() if draws_bars() else LineProgress()
