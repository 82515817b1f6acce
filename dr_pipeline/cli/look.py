"""The verb that makes the page of a dataset, of a training run or of a tuning, or serves a dataset's."""

import sys
from pathlib import Path

import click

from dr_pipeline.cli import verbs
from dr_pipeline.cli.output import DONE, FAILURES, say
from dr_pipeline.errors import ConfigError

_WRITTEN = "open it in a browser; it needs no network"


@click.command("look", cls=verbs.Verb)
@click.argument("output", type=verbs.OutputPath(), shell_complete=verbs.files, help="A dataset, one tar, or a run.")
@verbs.storage
@click.option("--key", metavar="KEY", help="A sample of a dataset at which the page opens.")
@click.option(
    "--html",
    type=verbs.GivenPath(),
    metavar="FILE",
    shell_complete=verbs.files,
    help="Where to write the page; default: the folder's name and .html, in the working folder.",
)
@click.option("--serve", is_flag=True, help="Serve the page of a dataset, with all samples, until Ctrl-C.")
@click.option("--port", type=verbs.WholeNumber(0, 65535), default=0, help="The server's; default: a free one.")
def look(output: str, storage: dict[str, object], key: str | None, html: str | None, serve: bool, port: int) -> int:
    """Write a page of HTML that shows a dataset and samples of it, or a training run, its curves and what it finds."""
    from dr_pipeline.report.runs.recognised import is_run

    if serve:
        return _serve(output, storage, key, html, port)
    if port:
        raise ConfigError("--port is the server's: add --serve")
    target = Path(html) if html else None
    if is_run(output):
        return _look_at_run(output, target, key, storage)
    from dr_pipeline.report.look.look import look
    from dr_pipeline.storage import Storage

    say("reads the manifest, and samples of a few shards", sys.stderr)
    looked = look(output, Storage(storage), target, key)
    if looked.unfinished:
        say(f"note: {looked.unfinished}", sys.stderr)
    for problem in looked.problems:
        say(f"error: {problem}", sys.stderr)
    say(f"{looked.path}: {_WRITTEN}")
    return FAILURES if looked.problems else DONE


def _look_at_run(folder: str, target: Path | None, key: str | None, storage: dict[str, object]) -> int:
    """Write the page of a training run or of a tuning. Raises ConfigError."""
    if key is not None or storage:
        raise ConfigError(f"--key and --storage are for datasets: {folder} is a training run's folder, which is local")
    from dr_pipeline.report.page.frame import find_place, write_page
    from dr_pipeline.report.runs.folder import read_run
    from dr_pipeline.report.runs.recognised import TUNING_FILE
    from dr_pipeline.report.runs.training_page import training_page
    from dr_pipeline.report.runs.tuning_page import tuning_page

    if Path(folder, "model").is_dir():
        say("the run's model computes examples on the CPU, which takes a while if it is large", sys.stderr)
    path = find_place(target, Path(folder).resolve().name)
    write_page(path, tuning_page(folder) if Path(folder, TUNING_FILE).is_file() else training_page(read_run(folder)))
    say(f"{path}: {_WRITTEN}")
    return DONE


def _serve(output: str, storage: dict[str, object], key: str | None, html: str | None, port: int) -> int:
    """Serve the page of a dataset until an interrupt. Raises ConfigError."""
    from dr_pipeline.report.runs.recognised import is_run
    from dr_pipeline.report.serve.server import serve
    from dr_pipeline.storage import Storage

    if html is not None:
        raise ConfigError("--html writes the page to a file, and --serve gives it out: choose one of them")
    if is_run(output):
        raise ConfigError(f"--serve is for datasets: {output} is a training run's folder, which --html shows whole")
    serve(output, Storage(storage), port, key, _announce)
    return DONE


def _announce(address: str) -> None:
    say(f"{address}\nOpen this address in a browser of this machine. Ctrl-C ends the server.")
    sys.stdout.flush()  # also into a pipe, where somebody waits for it
