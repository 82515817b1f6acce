"""The verb that examines a machine."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from dr_pipeline.cli import verbs
from dr_pipeline.cli.output import DONE, FAILURES, emit, say

if TYPE_CHECKING:
    from dr_pipeline.doctor.examination import Diagnosis


@click.command("doctor", cls=verbs.Verb)
@click.argument(
    "job",
    type=verbs.GivenPath(),
    shell_complete=verbs.files,
    required=False,
    help="A job file of any kind; without it the machine alone is examined.",
)
@verbs.overrides
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
def doctor(job: str | None, overrides: tuple[str, ...], as_json: bool) -> int:
    """Say what this machine lacks, for a job or for any, and what to do."""
    from dr_pipeline.cli.job import load_any_job
    from dr_pipeline.doctor.examination import examine

    loaded = load_any_job(job, overrides) if job else None
    found: list[tuple[str, Diagnosis]] = []
    for subject, diagnosis in examine(loaded):
        if not as_json:
            say(f"{diagnosis.state:<8} {subject:<13} {diagnosis.fact}")
            if diagnosis.advice and (not found or diagnosis.advice != found[-1][1].advice):
                say(f"{'':<22} → {diagnosis.advice}")
        found.append((subject, diagnosis))
    failed = sum(diagnosis.state == "fails" for _, diagnosis in found)
    lacks = dict.fromkeys(diagnosis.lacks for _, diagnosis in found if diagnosis.lacks)
    if as_json:
        emit({"found": [{"subject": subject, **asdict(diagnosis)} for subject, diagnosis in found], "fails": failed})
    else:
        if lacks:
            say(f"On this machine: {'; '.join(lacks)}.")
        what = "this job" if job else "a run"
        say(f"{failed} of {len(found)} fail: {what} will not work here before they are mended" if failed else "ready")
    return FAILURES if failed else DONE
