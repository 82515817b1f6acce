"""What a command gives back: its exit code, its lines, and its log."""

import json
import logging
import sys
from typing import Any, TextIO

from dr_pipeline.redaction import printable, without_secrets_in

DONE, FAILURES, BAD_USAGE, UNREAD = 0, 1, 2, 141
"""The exit codes, beside that of an interrupt."""


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
