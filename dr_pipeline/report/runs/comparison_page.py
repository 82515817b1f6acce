"""The page of several training runs: figures side by side, curves one over the other, and in what the runs differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dr_pipeline.report.comparison import Configuration, compare, percentage
from dr_pipeline.report.page.charts import Line, lines, spread
from dr_pipeline.report.page.frame import Page, Section
from dr_pipeline.report.page.parts import facts, note, table
from dr_pipeline.report.runs.folder import TrainingRun, read_run
from dr_pipeline.report.runs.training_page import CURVES
from dr_pipeline.report.units import in_clock

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class _Group:
    """The runs of a configuration."""

    name: str
    """Its label, with its number where an earlier one is called so too."""
    configuration: Configuration
    runs: Sequence[TrainingRun]


def comparison_page(folders: Sequence[str]) -> Page:
    """The page of these runs, with a chart a figure and a logged quantity. Raises ConfigError as `compare` does."""
    groups: list[_Group] = []
    for number, one in enumerate(compare(folders), start=1):
        is_known = one.label in {group.name for group in groups}
        name = f"{one.label} ({number})" if is_known else one.label
        groups.append(_Group(name, one, [read_run(run) for run in one.runs]))
    names = [*dict.fromkeys(name for group in groups for name in group.configuration.figures)]
    runs = [(group.name, run) for group in groups for run in group.runs]
    colors = {group.name: number for number, group in enumerate(groups)}
    figures, evaluations = [], []
    for name in names:
        values = {group.name: group.configuration.figures.get(name, []) for group in groups}
        measured = {label: [100 * value for value in own] for label, own in values.items() if own}
        figures.append(spread(name, measured, colors))
        series = [Line(label, *run.measured(name)) for label, run in runs]
        evaluations.append(lines(name, series, "step", "per cent"))
    curves = []
    for field, (title, axis) in CURVES.items():
        curves.append(lines(title, [Line(label, *run.logged(field)) for label, run in runs], "step", axis))
    sections = [
        Section("Overview", _overview(groups, names)),
        Section("Figures", figures),
        Section("Evaluations", evaluations),
        Section("Curves", curves),
        Section("Differences", [_differences(groups)]),
        Section("Runs", [_runs(groups)]),
    ]
    lead = ", ".join(str(run.folder) for _, run in runs)
    return Page(title="Comparison of training runs", lead=lead, sections=sections, assets=("spread.css",))


def _overview(groups: Sequence[_Group], names: Sequence[str]) -> "list[Markup]":
    num_runs = sum(len(group.runs) for group in groups)
    differing = [*groups[0].configuration.differs]
    said = {"configurations": f"{len(groups)}", "runs": f"{num_runs}", "figures": f"{len(names)}"}
    alike = "They differ in their seed at most." if num_runs > 1 else "One run: name more of them to compare it with."
    remark = f"They differ in {', '.join(differing)}." if differing else alike
    rows: list[tuple[str, ...]] = [("runs", *(str(len(group.runs)) for group in groups))]
    rows += [(name, *(percentage(group.configuration, name) for group in groups)) for name in names]
    meaning = (
        "In per cent, by each run's last evaluation; mean ± standard deviation (n − 1) where there are several runs."
    )
    header = ("figure", *(group.name for group in groups))
    return [facts(said), note(remark), table("All figures", header, rows, meaning)]


def _differences(groups: Sequence[_Group]) -> "Markup":
    fields = [*groups[0].configuration.differs]
    if not fields:
        return note("All runs are of one configuration: they differ in their seed at most.")
    header = ("field", *(f"configuration {number}" for number in range(1, len(groups) + 1)))
    rows = [(field, *(str(group.configuration.differs[field]) for group in groups)) for field in fields]
    return table("Fields in which the configurations differ", header, rows)


def _runs(groups: Sequence[_Group]) -> "Markup":
    rows = [
        (
            str(run.folder),
            group.name,
            str(run.job.get("seed", "")),
            run.step,
            round(run.steps[-1]["loss"], 3) if run.steps else None,
            in_clock(run.train_seconds),
        )
        for group in groups
        for run in group.runs
    ]
    return table("Runs", ("folder", "configuration", "seed", "steps", "last loss", "time in steps"), rows)
