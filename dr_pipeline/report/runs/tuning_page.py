"""The page of a tuning: what each teacher's students reached at each logit scale, and the runs behind it."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
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
    """The page of a tuning's folder: a chart a teacher, with a curve a scale, of each run whose folder is there.

    Raises ConfigError where its results cannot be read.
    """
    tuning = _read(folder)
    runs: dict[str, list[tuple[str, TrainingRun]]] = {trial.teacher: [] for trial in tuning.trials}
    for trial in tuning.trials:
        with suppress(ConfigError):
            run = read_run(run_folder(folder, trial.teacher, trial.logit_scale))
            runs[trial.teacher].append((scale_text(trial.logit_scale), run))
    evaluations, losses = [], []
    for teacher, own in runs.items():
        measured = [Line(scale, *run.measured(tuning.metric)) for scale, run in own]
        evaluations.append(lines(f"{teacher}: {tuning.metric}", measured, "step", "per cent"))
        logged = [Line(scale, *run.logged("loss")) for scale, run in own]
        losses.append(lines(f"{teacher}: loss", logged, "step", "loss"))
    losses.append(note("Losses at different logit scales are not to be compared: the scale is part of the loss."))
    sections = [
        Section("Results", [*_results(tuning, runs)]),
        Section("Evaluations", evaluations),
        Section("Losses", losses),
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


def _results(tuning: Tuning, teachers: Iterable[str]) -> "Iterator[Markup]":
    best = tuning.best()
    said = {f"best for {teacher}": scale_text(scale) for teacher, scale in best.items()}
    yield facts({"figure": tuning.metric, "runs": str(len(tuning.trials)), **said})
    for line in tuning.remarks():
        yield warning(line) if line.startswith("failed") else note(line)
    series = []
    for teacher in teachers:
        points = tuning.points(teacher)
        series.append(Line(teacher, [scale for scale, _ in points], [100 * figure for _, figure in points]))
    yield lines(f"{tuning.metric} by logit scale", series, "logit scale", "per cent")
    rows: list[tuple[str, float, float | None, str]] = []
    for trial in tuning.trials:
        remark = "best" if best.get(trial.teacher) == trial.logit_scale else ""
        figure = None if trial.figure is None else round(100 * trial.figure, 2)
        rows.append((trial.teacher, trial.logit_scale, figure, "failed" if figure is None else remark))
    yield table("Runs", ("teacher", "logit scale", f"{tuning.metric}, %", "remark"), rows)
