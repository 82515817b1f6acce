"""The verb that tells how far a run is, from wherever its output can be read."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dr_pipeline.cli import verbs
from dr_pipeline.cli.output import DONE, FAILURES, emit, say
from dr_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from dr_pipeline.report.status import DatasetStatus
    from dr_pipeline.report.training_status import TrainingStatus


@click.command("status", cls=verbs.Verb)
@click.argument("output", type=verbs.OutputPath(), shell_complete=verbs.files, help="A dataset's or a run's folder.")
@verbs.storage
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
def status(output: str, storage: dict[str, object], as_json: bool) -> int:
    """Tell how far a run is, by what it has stored: of a dataset, or of a training run."""
    from dr_pipeline.report.runs.recognised import RUN_FILE, runs_below
    from dr_pipeline.storage import Storage

    found: TrainingStatus | DatasetStatus
    if Path(output, RUN_FILE).is_file():
        from dr_pipeline.report.training_status import training_status

        found = training_status(Path(output))
    else:
        from dr_pipeline.report.status import dataset_status

        found = dataset_status(output, Storage(storage))
        if found.state == "never run" and (runs := runs_below(output)):
            raise ConfigError(f"{output} is no run's folder, but has training runs in it: name one, such as {runs[0]}")
    if as_json:
        emit(asdict(found))
    else:
        say(str(found))
    return FAILURES if found.needs_care else DONE
