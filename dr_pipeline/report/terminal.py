"""What a terminal, a pipe or a file can show."""

import os
import sys
from shutil import get_terminal_size

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_DUMB = ("dumb", "unknown")
"""Values of TERM; such a terminal cannot move its cursor."""


def draws_bars() -> bool:
    """Whether standard error is a terminal on which a line can be drawn again."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in _DUMB


def print_table(table: Table) -> None:
    """Print a table to standard output: folded to a terminal's width, or to $COLUMNS, and whole in a pipe or a file."""
    console = Console(markup=False, highlight=False)
    is_narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    unfolded = Measurement.get(console, console.options.update(max_width=10**4), table).maximum
    console.size = get_terminal_size() if is_narrow else (unfolded, 1)  # of a dumb terminal rich takes 80 columns
    console.print(table)
