"""What a tuning found: each teacher at each logit scale, as a table, a drawing and JSON."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.table import Table

from dr_pipeline.redaction import printable
from dr_pipeline.tuning.scale_files import scale_text


@dataclass(frozen=True)
class Trial:
    """One teacher at one logit scale."""

    teacher: str
    logit_scale: float
    figure: float | None
    """The metric at the run's end; None where it failed."""
    failure: str | None


@dataclass(frozen=True)
class Tuning:
    """What the runs showed: every teacher at every logit scale, the scales ascending."""

    metric: str
    trials: tuple[Trial, ...]
    written: tuple[str, ...] = ()
    """The files that hold the chosen scales now."""

    @property
    def failed(self) -> list[Trial]:
        """Runs that did not come to their end."""
        return [trial for trial in self.trials if trial.figure is None]

    def points(self, teacher: str) -> list[tuple[float, float]]:
        """Logit scale and figure of a teacher's runs that ended."""
        own = (trial for trial in self.trials if trial.teacher == teacher)
        return [(trial.logit_scale, trial.figure) for trial in own if trial.figure is not None]

    def best(self) -> dict[str, float]:
        """Each teacher's best logit scale; of equals, the smallest."""
        teachers = dict.fromkeys(trial.teacher for trial in self.trials)
        points = {name: self.points(name) for name in teachers}
        return {name: max(own, key=lambda point: point[1])[0] for name, own in points.items() if own}

    def remarks(self) -> list[str]:
        """What a person should know beside the table, a line each."""
        scales = [trial.logit_scale for trial in self.trials]
        ends = {
            min(scales): "the smallest of the list: try smaller scales",
            max(scales): "the largest of the list: try larger scales",
        }
        lines = []
        for name, scale in self.best().items():
            end = ends.get(scale)
            lines.append(f"{name}: logit scale {scale_text(scale)}" + (f", {end}" if end else ""))
        for trial in self.failed:
            lines.append(f"failed: {trial.teacher} at {scale_text(trial.logit_scale)}: {trial.failure}")
        return lines + [f"written to {path}" for path in self.written]

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "best": self.best()}


def run_folder(path: str, teacher: str, logit_scale: float) -> str:
    """Where the run of a teacher at a logit scale lies in a tuning's folder."""
    # One visible folder a teacher: a dataset may call its teachers whatever it likes.
    return f"{path}/{re.sub(r'^[.]', '%2E', quote(teacher, safe=''))}/{scale_text(logit_scale)}"


def show(tuning: Tuning) -> Table:
    """The metric in per cent, a row a scale and a column a teacher; * marks the best."""
    best = tuning.best()
    names = list(dict.fromkeys(trial.teacher for trial in tuning.trials))
    table = Table("logit scale", *map(printable, names), title=printable(f"{tuning.metric}, per cent"))
    for scale in dict.fromkeys(trial.logit_scale for trial in tuning.trials):
        row = []
        for trial in (trial for trial in tuning.trials if trial.logit_scale == scale):
            mark = " *" if best.get(trial.teacher) == scale else ""
            row.append("failed" if trial.figure is None else f"{100 * trial.figure:.1f}{mark}")
        table.add_row(scale_text(scale), *row)
    return table


def draw(tuning: Tuning, path: Path) -> None:
    """The metric against the logit scale, one line a teacher, its best ringed."""
    from matplotlib.figure import Figure  # a second to import, once a tuning

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("logit scale")
    axes.set_ylabel(tuning.metric)
    axes.grid(alpha=0.3)
    for name, scale in tuning.best().items():
        points = tuning.points(name)
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        axes.plot(scale, dict(points)[scale], "o", markersize=11, fillstyle="none", color="black")
    if tuning.best():
        axes.legend(fontsize="small")
    figure.savefig(path, format="png", dpi=120)
