"""The verb that makes the page of a dataset."""

import sys
from pathlib import Path

import click

from dr_pipeline.cli import verbs
from dr_pipeline.cli.output import DONE, FAILURES, say


@click.command("look", cls=verbs.Verb)
@verbs.dataset
@verbs.storage
@click.option("--key", metavar="KEY", help="A sample at which the page opens.")
@click.option(
    "--html",
    type=verbs.GivenPath(),
    metavar="FILE",
    shell_complete=verbs.files,
    help="Where to write the page; default: the dataset's name and .html, in the working folder.",
)
def look(output: str, storage: dict[str, object], key: str | None, html: str | None) -> int:
    """Write a page of HTML that shows a dataset: counts, similarities, captions, and samples with their views."""
    from dr_pipeline.report.look.look import look
    from dr_pipeline.storage import Storage

    looked = look(output, Storage(storage), Path(html) if html else None, key)
    for problem in looked.problems:
        say(f"error: {problem}", sys.stderr)
    say(f"{looked.path}: open it in a browser; it needs no network")
    return FAILURES if looked.problems else DONE
