"""The page of a tuning: what each teacher's students reached at each logit scale, and the runs behind it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dr_pipeline.errors import ConfigError, reason
from dr_pipeline.report.page.charts import Line, lines
from dr_pipeline.report.page.frame import Page, Section
from dr_pipeline.report.page.parts import facts, note, table, warning
from dr_pipeline.report.runs.folder import TrainingRun, read_run
from dr_pipeline.report.runs.recognised import TUNING_FILE
from dr_pipeline.tuning.results import Trial, Tuning, run_folder
from dr_pipeline.tuning.scale_files import scale_text

if TYPE_CHECKING:
    from markupsafe import Markup


def tuning_page(folder: str) -> Page:
    """The page of a tuning's folder. Raises ConfigError where its results cannot be read."""
    tuning = _read(folder)
    runs = {(trial.teacher, trial.logit_scale): _find_run(folder, trial) for trial in tuning.trials}
    sections = [
        Section("Results", [*_results(tuning)]),
        Section("Evaluations", [*_evaluations(tuning, runs)]),
        Section("Losses", [*_losses(tuning, runs)]),
    ]
    return Page(title="Tuned logit scales", lead=folder, sections=sections)


def _read(folder: str) -> Tuning:
    try:
        tree: dict[str, Any] = json.loads(Path(folder, TUNING_FILE).read_text(encoding="utf-8"))
        trials = tuple(Trial(**trial) for trial in tree["trials"])
        return Tuning(str(tree["metric"]), trials, tuple(tree["written"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{folder} is no tuning's folder: its {TUNING_FILE} cannot be read: {reason(error)}"
        ) from error


Runs = Mapping[tuple[str, float], TrainingRun | None]
"""Teacher and logit scale → its run; None where its folder is gone."""


def _find_run(folder: str, trial: Trial) -> TrainingRun | None:
    try:
        return read_run(run_folder(folder, trial.teacher, trial.logit_scale))
    except ConfigError:
        return None


def _teachers(tuning: Tuning) -> list[str]:
    return [*dict.fromkeys(trial.teacher for trial in tuning.trials)]


def _results(tuning: Tuning) -> "Iterator[Markup]":
    best = tuning.best()
    said = {f"best for {teacher}": scale_text(scale) for teacher, scale in best.items()}
    yield facts({"figure": tuning.metric, "runs": str(len(tuning.trials)), **said})
    for line in tuning.remarks():
        yield warning(line) if line.startswith("failed") else note(line)
    series = []
    for teacher in _teachers(tuning):
        scales, figures = zip(*tuning.points(teacher), strict=True) if tuning.points(teacher) else ((), ())
        series.append(Line(teacher, scales, [100 * figure for figure in figures]))
    yield lines(f"{tuning.metric} by logit scale", series, "logit scale", "per cent")
    rows = [(trial.teacher, trial.logit_scale, *_outcome(trial, best)) for trial in tuning.trials]
    yield table("Runs", ("teacher", "logit scale", f"{tuning.metric}, %", "remark"), rows)


def _outcome(trial: Trial, best: Mapping[str, float]) -> tuple[float | None, str]:
    """The figure in per cent, and what is to be said of it."""
    if trial.figure is None:
        return None, "failed"
    return round(100 * trial.figure, 2), "best" if best[trial.teacher] == trial.logit_scale else ""


def _evaluations(tuning: Tuning, runs: Runs) -> "Iterator[Markup]":
    """A chart a teacher: the figure over the steps, a curve a scale."""
    for teacher in _teachers(tuning):
        series = [Line(scale_text(scale), *run.measured(tuning.metric)) for scale, run in _runs_of(teacher, runs)]
        yield lines(f"{teacher}: {tuning.metric}", series, "step", "per cent")


def _losses(tuning: Tuning, runs: Runs) -> "Iterator[Markup]":
    """A chart a teacher: the loss over the steps, a curve a scale."""
    for teacher in _teachers(tuning):
        series = [Line(scale_text(scale), *run.logged("loss")) for scale, run in _runs_of(teacher, runs)]
        yield lines(f"{teacher}: loss", series, "step", "loss")
    yield note("Losses at different logit scales are not to be compared: the scale is part of the loss.")


def _runs_of(teacher: str, runs: Runs) -> list[tuple[float, TrainingRun]]:
    return [(scale, run) for (of, scale), run in runs.items() if of == teacher and run is not None]
