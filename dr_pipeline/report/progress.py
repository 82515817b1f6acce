"""The progress of a run: a bar on a terminal, plain lines elsewhere, JSON lines for machines."""

import json
import sys
import time
from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.redaction import printable
from dr_pipeline.report.terminal import draws_bars

_NO_SAMPLE = "no sample, as its tar has no member"


def make_bar(unit: str) -> Progress:
    """A bar on standard error. `unit`: what it counts. Its task has the field `figures`, a text at the bar's end."""
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    ]
    return Progress(*columns, console=Console(stderr=True))


def print_above(bar: Progress, line: str, style: str | None = None) -> None:
    """Print a line above a bar, as it is."""
    bar.console.print(printable(line), style=style, markup=False, highlight=False)


def print_line(line: str) -> None:
    """Print to standard error, at once."""
    print(printable(line), file=sys.stderr, flush=True)


class Rates:
    """Samples, views and skips so far, and per second since the first model began to load."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.num_samples = self.num_views = self.num_skipped = self.num_filtered = 0
        self._num_drawn = 0
        self._num_tokens = self._cost = 0.0
        self._busy_seconds = self._seconds = 0.0

    def add(self, report: ShardReport) -> None:
        """Count one ended shard."""
        self.num_samples += report.num_written
        self.num_views += report.num_views
        self.num_skipped += report.num_skipped
        self.num_filtered += report.num_filtered
        self._num_drawn += sum(counts["drawn"] for counts in report.captions.values())
        for used in report.usage.values():
            self._num_tokens += used["prompt_tokens"] + used["completion_tokens"]
            self._cost += used.get("cost", 0.0)
        if "device" in report.seconds:
            self._busy_seconds += report.seconds["device"]
            self._seconds += report.seconds["total"]

    def __str__(self) -> str:
        seconds = time.perf_counter() - self._started
        figures = [f"{self.num_samples / seconds:,.1f} samples/s", f"{self.num_views / seconds:,.1f} views/s"]
        if self._num_drawn:
            figures.append(f"{self._num_drawn / seconds:,.1f} captions/s")
        if self._num_tokens:
            figures.append(f"{self._num_tokens / seconds:,.0f} tokens/s")
        if self._cost:
            figures.append(f"cost {self._cost:,.2f}")
        if self._seconds:
            figures.append(f"device busy {self._busy_seconds / self._seconds:.0%}")
        if self.num_filtered:
            figures.append(f"{self.num_filtered} filtered")
        return ", ".join([*figures, f"{self.num_skipped} skipped"])


class BarProgress:
    """A bar of shards with rates and the time that is left."""

    def __init__(self) -> None:
        self._progress = make_bar("shards")
        self._rates = Rates()

    def planned(self, plan: Plan) -> None:
        """Show the bar, and a line for each kind of file that is left out."""
        total = len(plan.todo) + len(plan.done)
        self._progress.start()
        self._bar = self._progress.add_task(
            printable(plan.job.name), total=total, completed=len(plan.done), figures="loading models"
        )
        for left_out in plan.left_out:
            print_above(self._progress, f"left out {left_out}")

    def reported(self, report: ShardReport) -> None:
        """Move the bar; a failed shard, and one without samples, has a line above it."""
        self._rates.add(report)
        self._progress.update(self._bar, advance=1, figures=str(self._rates))
        if report.status == "failed":
            print_above(self._progress, f"failed {report.name}: {report.error}", "red")
        elif not report.num_read:
            print_above(self._progress, f"done {report.name}: {_NO_SAMPLE}", "yellow")

    def close(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


class LineProgress:
    """A line per shard, for logs."""

    def planned(self, plan: Plan) -> None:
        """Say how many shards there are to do."""
        self._left = len(plan.todo)
        self._rates = Rates()
        print_line(f"{plan.job.name}: {len(plan.todo)} shards to do, {len(plan.done)} done; loading models")
        for left_out in plan.left_out:
            print_line(f"left out {left_out}")

    def reported(self, report: ShardReport) -> None:
        """Say how a shard ended."""
        self._rates.add(report)
        self._left -= 1
        if report.status == "failed":
            print_line(f"failed {report.name}: {report.error}")
        else:
            samples = f"{report.num_written} of {report.num_read} samples" if report.num_read else _NO_SAMPLE
            if report.passed_over:
                samples += f", {sum(report.passed_over.values())} members passed over"
            print_line(
                f"done {report.name}: {samples}, {report.num_views} views, "
                f"{report.seconds['total']:.1f} s; {self._left} left, {self._rates}"
            )

    def close(self) -> None:
        """Lines need no end."""


class JsonProgress:
    """A JSON object per shard on standard output."""

    def planned(self, plan: Plan) -> None:
        """An object with the numbers of shards to do and done."""
        left_out = [asdict(left_out) for left_out in plan.left_out]
        planned = {"event": "planned", "todo": len(plan.todo), "done": len(plan.done), "left_out": left_out}
        print(json.dumps(planned), flush=True)

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
