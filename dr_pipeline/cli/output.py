"""What a command gives back: its exit code, its lines, and its log."""

import codecs
import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import click

from dr_pipeline.cli.exit import INTERRUPTED
from dr_pipeline.redaction import printable, without_secrets_in

DONE, FAILURES, BAD_USAGE, UNREAD = 0, 1, 2, 141
"""The exit codes, beside that of an interrupt."""

_IN_ASCII = {"→": "->", "×": "x", "±": "~", "–": "-", "…": "..."}
"""How signs of our own are written where an encoding lacks them."""


def write_any_text() -> None:
    """Have standard output and error take all texts, whatever their encoding: a locale ends no verb.

    What an encoding lacks is written in other signs, or as its escape.
    """
    codecs.register_error("in_ascii", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what stands for it in a test or a notebook need not be one
            stream.reconfigure(errors="in_ascii")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError), "nothing is read from these streams"
    signs = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(sign, ascii(sign)[1:-1]) for sign in signs), error.end


def say(text: str, stream: TextIO | None = None) -> None:
    """Print, to standard output by default. Nothing else in this package may: keys and captions come from data."""
    print(printable(text), file=stream)


@contextmanager
def stoppable(how_to_go_on: str) -> Iterator[None]:
    """A block that an interrupt ends, and its verb with it: `how_to_go_on` is said."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped; {how_to_go_on}", sys.stderr)
        raise click.exceptions.Exit(INTERRUPTED) from None


def emit(record: dict[str, Any]) -> None:
    """Print one line of JSON, which escapes by itself."""
    print(json.dumps(without_secrets_in(record)))


LOG_LEVELS = {1: logging.INFO, 0: logging.WARNING, -1: logging.ERROR}
"""By how often -v was given, less -q."""
