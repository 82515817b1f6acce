"""The verbs of the student. A job file is read before torch, which takes seconds to import."""

import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dr_pipeline.cli import verbs
from dr_pipeline.cli.output import DONE, FAILURES, emit, say, stoppable

if TYPE_CHECKING:
    from dr_pipeline.evaluation.evaluate import TaskResult


@click.command("train", cls=verbs.Verb)
@verbs.job_file
@verbs.overrides
@verbs.json_lines
def train(job: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Train a student on a reinforced dataset, or resume its run."""
    from dr_pipeline.cli.job import load_job
    from dr_pipeline.config.training import TrainJob

    loaded = load_job(job, TrainJob, overrides)

    from dr_pipeline.report.training import training_display
    from dr_pipeline.runners.student import train

    how_to_go_on = "run the same command again to go on from the last checkpoint"
    with closing(training_display(as_json)) as display, stoppable(how_to_go_on):
        outcome = train(loaded, display)
    if outcome:
        _print_results(outcome.results, as_json)
        curves = f", its curves in {outcome.curves}" if outcome.curves else ""
        say(f"the student is in {outcome.model}{curves}", sys.stderr)
    return DONE


@click.command("evaluate", cls=verbs.Verb)
@verbs.job_file
@verbs.overrides
@verbs.json_lines
def evaluate(job: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Evaluate a model: zero-shot classification and retrieval."""
    from dr_pipeline.cli.job import load_job
    from dr_pipeline.config.evaluation import EvaluateJob

    loaded = load_job(job, EvaluateJob, overrides)

    from dr_pipeline.runners.evaluation import evaluate

    _print_results(evaluate(loaded), as_json)
    return DONE


@click.command("compare", cls=verbs.Verb)
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    type=verbs.GivenPath(),
    shell_complete=verbs.files,
    metavar="RUN...",
    help="Folders of training runs.",
)
@verbs.json_lines
@click.option("--html", type=verbs.GivenPath(), metavar="FILE", help="Write a page with charts to this file, too.")
def compare(runs: tuple[str, ...], as_json: bool, html: str | None) -> int:
    """Compare training runs: mean and deviation over seeds of what their last evaluations found."""
    from dr_pipeline.report.comparison import compare, show
    from dr_pipeline.report.terminal import print_table

    configurations = compare(runs)
    if html is not None:
        from dr_pipeline.report.page.frame import write_page
        from dr_pipeline.report.runs.comparison_page import comparison_page

        write_page(Path(html), comparison_page(runs))
        say(f"the page is in {html}", sys.stderr)
    if not as_json:
        print_table(show(configurations))
        return DONE
    for one in configurations:
        emit({"event": "configuration", **asdict(one), "means": one.means, "deviations": one.deviations})
    return DONE


def _print_results(results: "list[TaskResult]", as_json: bool) -> None:
    from dr_pipeline.evaluation.evaluate import show
    from dr_pipeline.report.terminal import print_table

    if as_json:
        for result in results:
            emit({"event": "result", **asdict(result)})
    elif results:
        print_table(show(results))


@click.command("tune-logit-scale", cls=verbs.Verb)
@verbs.job_file
@verbs.overrides
@verbs.json_lines
def tune_logit_scale(job: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Find each teacher's best logit scale by short training runs with that teacher alone."""
    from dr_pipeline.cli.job import load_job
    from dr_pipeline.config.training import TuneJob

    loaded = load_job(job, TuneJob, overrides)

    from dr_pipeline.report.terminal import print_table
    from dr_pipeline.report.training import training_display
    from dr_pipeline.runners.student import online_teachers
    from dr_pipeline.tuning.results import show
    from dr_pipeline.tuning.tune import tune

    how_to_go_on = "runs that ended are kept: run the same command again to go on"
    with closing(training_display(as_json)) as display, stoppable(how_to_go_on):
        tuning = tune(loaded, display, online_teachers)
    if tuning is None:
        return DONE
    if as_json:
        emit({"event": "tuned", **tuning.record()})
    else:
        print_table(show(tuning))
        say("\n".join([*tuning.remarks(), f"all figures are in {loaded.path}/tuning.json, drawn in tuning.png"]))
    return FAILURES if tuning.failed else DONE
