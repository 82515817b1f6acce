"""The verbs of the generator. What they need is imported when they run: help and completion answer at once."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from dr_pipeline.cli import verbs
from dr_pipeline.cli.exit import INTERRUPTED
from dr_pipeline.cli.output import BAD_USAGE, DONE, FAILURES, emit, say

if TYPE_CHECKING:
    from dr_pipeline.runners.run import Observer, Outcome


@click.command("run", cls=verbs.Verb)
@verbs.job_file
@verbs.overrides
@verbs.json_lines
@click.option("--force", is_flag=True, help="Redo an output that another configuration made.")
@click.option("--retry-failed", is_flag=True, help="Only shards that the last run gave up.")
def run(job: str, overrides: tuple[str, ...], as_json: bool, force: bool, retry_failed: bool) -> int:
    """Reinforce the shards that are not done yet."""
    from dr_pipeline.cli.job import load_job
    from dr_pipeline.config.job import Job
    from dr_pipeline.runners.run import run

    loaded = load_job(job, Job, overrides)
    return watched(lambda observer: run(loaded, observer, force, retry_failed), as_json)


def watched(work: "Callable[[Observer], Outcome]", as_json: bool) -> int:
    """Do the work under a progress display and say how it ended: the exit code."""
    from dr_pipeline.dataset.texts import describe_faults
    from dr_pipeline.report.progress import progress

    shown = progress(as_json)
    try:
        outcome = work(shown)
    except KeyboardInterrupt:
        say("stopped; finished shards are safe: run the same command again to go on", sys.stderr)
        return INTERRUPTED
    finally:
        shown.close()
    if as_json:
        failed_names = [report.name for report in outcome.failed]
        counts = {"num_samples": outcome.num_samples, "captions": outcome.captions}
        emit({"event": "finished", **counts, "failed": failed_names})
    else:
        say(f"{outcome.num_samples} samples in {outcome.num_shards} shards at {outcome.job.output.path}")
        for key, found in outcome.captions.items():
            say(describe_faults(key, found, found["drawn"]))
        for report in outcome.failed:
            say(f"failed {report.name}: {report.error}")
    return FAILURES if outcome.failed else DONE


@click.command("plan", cls=verbs.Verb)
@verbs.job_file
@verbs.overrides
@verbs.json_lines
def plan(job: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Show what a run would do, and what would be refused; starts and writes nothing."""
    from dr_pipeline.cli.job import load_job
    from dr_pipeline.config.job import Job
    from dr_pipeline.runners.rehearse import rehearse

    shown = rehearse(load_job(job, Job, overrides))
    if as_json:
        emit(asdict(shown))
    else:
        say(str(shown))
    return BAD_USAGE if shown.refused else DONE
