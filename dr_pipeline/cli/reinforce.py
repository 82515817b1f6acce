"""The verbs of the generator. They import what they need when they run: help and completion answer at once."""

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from dr_pipeline.cli import verbs
from dr_pipeline.cli.output import BAD_USAGE, DONE, FAILURES, emit, say, stoppable
from dr_pipeline.words import plural

if TYPE_CHECKING:
    from dr_pipeline.runners.run import RunObserver, RunResult


@click.command("run", cls=verbs.Verb)
@verbs.job_file
@verbs.overrides
@verbs.json_lines
@click.option("--force", is_flag=True, help="Redo an output that another configuration made.")
@click.option("--retry-failed", is_flag=True, help="Redo only the shards that failed in the last run.")
def run(job: str, overrides: tuple[str, ...], as_json: bool, force: bool, retry_failed: bool) -> int:
    """Reinforce the shards that are not done yet."""
    from dr_pipeline.cli.job import load_job
    from dr_pipeline.config.job import Job

    loaded = load_job(job, Job, overrides)

    from dr_pipeline.runners.run import run

    return run_with_progress(lambda display: run(loaded, display, force, retry_failed), as_json)


def run_with_progress(work: "Callable[[RunObserver], RunResult]", as_json: bool) -> int:
    """Call `work` with a progress display, and print how it ended. Gives the exit code."""
    from dr_pipeline.dataset.caption_faults import describe_faults
    from dr_pipeline.dataset.reports import describe_usage
    from dr_pipeline.report.progress import progress

    how_to_go_on = "finished shards are safe: run the same command again to go on"
    with closing(progress(as_json)) as display, stoppable(how_to_go_on):
        result = work(display)
    if as_json:
        failed_names = [report.name for report in result.failed]
        counts = {"num_samples": result.num_samples, "captions": result.captions, "usage": result.usage}
        emit({"event": "finished", **counts, "failed": failed_names})
    else:
        say(
            f"{plural(result.num_samples, 'sample')} in {plural(result.num_shards, 'shard')} at "
            f"{result.job.output.path}"
        )
        for key, found in result.captions.items():
            say(describe_faults(key, found, found["drawn"]))
        for key, used in result.usage.items():
            say(describe_usage(key, used))
        for report in result.failed:
            say(f"failed {report.name}: {report.error}")
    return FAILURES if result.failed else DONE


@click.command("plan", cls=verbs.Verb)
@verbs.job_file
@verbs.overrides
@verbs.json_lines
@click.option(
    "--calibrate",
    "shard",
    type=verbs.GivenPath(),
    shell_complete=verbs.files,
    help="A shard of the input, by name or path, to measure this machine on: the job's models reinforce its first "
    "samples, in a folder that is removed, and endpoints are asked.",
)
@click.option(
    "--budget",
    type=verbs.Amount(),
    metavar="AMOUNT",
    help="Say which views, captions and models fit it, in the currency of the job's prices.",
)
def plan(job: str, overrides: tuple[str, ...], as_json: bool, shard: str | None, budget: float | None) -> int:
    """Show what a run would do, and what would be refused; writes nothing to the output."""
    from dr_pipeline.cli.job import load_job
    from dr_pipeline.config.job import Job

    loaded = load_job(job, Job, overrides)

    from dr_pipeline.runners.dry_run import dry_run

    if shard is not None:
        say(f"measuring this machine on {shard}, for a minute or more", sys.stderr)
    preview = dry_run(loaded, shard, budget)
    if as_json:
        emit(asdict(preview))
    else:
        say(str(preview))
    return BAD_USAGE if preview.refused else DONE
