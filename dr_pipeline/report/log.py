"""The log of this package on standard error, of a command as of a worker of one."""

import logging
import sys

from dr_pipeline.redaction import printable

PACKAGE = "dr_pipeline"


class Lines(logging.Formatter):
    """Log lines for a terminal: what they quote comes from data."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, escaped."""
        return printable(super().format(record))


def show_log(level: int) -> None:
    """Log what this package says from a level of `logging` on to standard error.

    Libraries never say more than warnings: their information is about themselves.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines("%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger().setLevel(max(level, logging.WARNING))
    logging.getLogger(PACKAGE).setLevel(level)


def shown_level() -> int:
    """The level that `show_log` has set here."""
    return logging.getLogger(PACKAGE).getEffectiveLevel()
