"""Training runs side by side: of each configuration mean and deviation over its seeds, as in the paper's tables."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from dr_pipeline.config.job import flatten
from dr_pipeline.errors import ConfigError
from dr_pipeline.redaction import printable
from dr_pipeline.report.runs.recognised import read_identity
from dr_pipeline.training.metrics import figures_of, read_metrics

_OF_ONE_RUN = ("seed",)
"""The fields in which runs of one configuration differ."""


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in their seed alone."""

    differs: dict[str, Any]
    """The fields that set it apart from the other configurations, by dotted name."""
    runs: list[str]
    figures: dict[str, list[float]]
    """Task and figure → its value in each run, from 0 to 1; those that all of its runs have."""

    @property
    def label(self) -> str:
        """What it is called: the fields that set it apart, else its first run's folder."""
        return ", ".join(f"{name}={value}" for name, value in self.differs.items()) or Path(self.runs[0]).name

    @property
    def means(self) -> dict[str, float]:
        """The mean of each figure."""
        return {name: mean(values) for name, values in self.figures.items()}

    @property
    def deviations(self) -> dict[str, float]:
        """The standard deviation of each figure, with n - 1 in its denominator; empty for a single run."""
        return {name: stdev(values) for name, values in self.figures.items() if len(values) > 1}


def compare(folders: Sequence[str]) -> list[Configuration]:
    """The configurations of these runs, in the order of their first runs, by each run's last evaluation.

    Raises ConfigError where a folder is no run's, or its run has not been evaluated.
    """
    fields: dict[str, dict[str, Any]] = {}
    figures: dict[str, dict[str, float]] = {}
    for folder in dict.fromkeys(folders):
        own = {name: value for name, value in flatten(read_identity(folder)) if name not in _OF_ONE_RUN}
        evaluations = [record for record in read_metrics(Path(folder)) if record["event"] == "evaluation"]
        if not evaluations:
            raise ConfigError(
                f"{folder}: its run has not been evaluated: name tasks in its job's evaluation, and let it end"
            )
        fields[folder] = own | {"step": evaluations[-1]["step"]}  # runs that have not come as far are not of one row
        figures[folder] = figures_of(evaluations[-1])
    groups: dict[str, list[str]] = defaultdict(list)
    for folder, own in fields.items():
        groups[json.dumps(own, sort_keys=True)].append(folder)
    members = [*groups.values()]
    trees = [fields[runs[0]] for runs in members]
    names = dict.fromkeys(name for tree in trees for name in tree)
    varying = [name for name in names if len({json.dumps(tree.get(name)) for tree in trees}) > 1]
    # Digests of contents are told only where nothing else differs.
    varying = [name for name in varying if not name.startswith("contents.")] or varying
    return [
        Configuration(
            differs={name: fields[runs[0]].get(name) for name in varying},
            runs=runs,
            figures={
                name: [figures[run][name] for run in runs]
                for name in figures[runs[0]]
                if all(name in figures[run] for run in runs)
            },
        )
        for runs in members
    ]


def show(configurations: Sequence[Configuration]) -> Table:
    """Means and deviations in per cent: a configuration is a row, or a column where there are more figures."""
    names = dict.fromkeys(name for one in configurations for name in one.figures)
    rows = [["configuration", "runs", *names]]
    for one in configurations:
        rows.append([one.label, str(len(one.runs)), *(percentage(one, name) for name in names)])
    head, *body = zip(*rows, strict=True) if len(names) > len(configurations) else rows
    table = Table(*map(printable, head))
    for row in body:
        table.add_row(*map(printable, row))
    return table


def percentage(one: Configuration, name: str) -> str:
    """A figure's mean in per cent, with its deviation where there is one; empty where the figure is not there."""
    if name not in one.figures:
        return ""
    deviation = f" ± {100 * one.deviations[name]:.1f}" if name in one.deviations else ""
    return f"{100 * one.means[name]:.1f}{deviation}"
