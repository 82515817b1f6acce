"""What a command gives back: its exit code, its lines, and its log."""

import codecs
import io
import json
import logging
import sys
from typing import Any, TextIO

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


def emit(record: dict[str, Any]) -> None:
    """Print one line of JSON, which escapes by itself."""
    print(json.dumps(without_secrets_in(record)))


class Lines(logging.Formatter):
    """Log lines for a terminal: what they quote comes from data."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, escaped."""
        return printable(super().format(record))


def show_log(verbosity: int) -> None:
    """Log to standard error: warnings at 0, the package's information too at 1, nothing below errors at -1.

    Libraries never say more than warnings: their information is about themselves.
    """
    level = {1: logging.INFO, 0: logging.WARNING, -1: logging.ERROR}[verbosity]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines("%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger().setLevel(max(level, logging.WARNING))
    logging.getLogger("dr_pipeline").setLevel(level)
