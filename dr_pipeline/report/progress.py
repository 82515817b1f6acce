"""The progress of a run: a bar on a terminal, plain lines elsewhere, JSON lines for machines."""

import json
import time
from collections import Counter
from dataclasses import asdict

from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.redaction import printable
from dr_pipeline.report.snapshot import Snapshot
from dr_pipeline.report.terminal import FiguresBar, draws_bars, print_line
from dr_pipeline.report.units import in_clock
from dr_pipeline.words import plural

_NO_SAMPLE = "no sample, as its tar has no member"
_EVERY_SECONDS = 30.0
"""Between two lines, or two records, that say how far a run is."""
_FIRST_SECONDS = 10.0
"""Until the first of them, and until a model takes so long to load that it is named."""
_MOST_LINES = 20
"""Shards that have a line of their own in that time; the others are counted in the next line."""


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
        name, figures = printable(plan.job.name), "loading models" if plan.todo else ""
        self._bar = self._progress.add_task(name, total=total, completed=len(plan.done), figures=figures)
        for left_out in plan.left_out:
            self._progress.print_above(f"left out {left_out}")

    def progressed(self, snapshot: Snapshot) -> None:
        """Move the bar."""
        ended = snapshot.num_done + snapshot.num_failed
        left = f"{in_clock(snapshot.seconds_left)} left; " if snapshot.seconds_left else ""
        self._progress.update(self._bar, completed=ended, figures=printable(f"{left}{snapshot.figures}"))

    def reported(self, report: ShardReport) -> None:
        """A failed shard, and one without samples, has a line above the bar."""
        if report.status == "failed":
            self._progress.print_above(f"failed {report.name}: {report.error}", "red")
        elif not report.num_read:
            self._progress.print_above(f"done {report.name}: {_NO_SAMPLE}", "yellow")

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
        loads = "; loading models" if plan.todo else ""
        print_line(f"{plan.job.name}: {plural(len(plan.todo), 'shard')} to do, {len(plan.done)} done{loads}")
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
            samples = f"{report.num_written} of {plural(report.num_read, 'sample')}" if report.num_read else _NO_SAMPLE
            if report.passed_over:
                samples += f", {plural(sum(report.passed_over.values()), 'member')} passed over"
            seconds = report.seconds["total"]
            print_line(
                f"done {report.name}: {samples}, {plural(report.num_views, 'view')}, {seconds:.1f} s; {self._left} left"
            )

    def close(self) -> None:
        """Say how far the run came."""
        if self._num_lines:
            self._say_all()

    def _say_all(self) -> None:
        for status, number in self._num_lines.items():
            if number > _MOST_LINES:
                print_line(f"{status} {plural(number - _MOST_LINES, 'shard')} more")
        self._num_lines.clear()
        if self._last:
            print_line(str(self._last))


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
