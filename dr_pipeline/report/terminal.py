"""What a terminal, a pipe or a file can show: tables, lines, and bars with figures below them."""

import os
import sys
from collections.abc import Iterable
from shutil import get_terminal_size

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dr_pipeline.redaction import printable

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


class FiguresBar(Progress):
    """A bar on standard error, with the field `figures` of its task, a text, below it in as many lines as it needs."""

    def __init__(self, unit: str, *columns: ProgressColumn):
        """`unit`: what it counts. `columns`: what stands behind the time that has passed."""
        counted = [MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn()]
        name = TextColumn("{task.description}", markup=False)
        super().__init__(name, BarColumn(), *counted, *columns, console=Console(stderr=True))

    def print_above(self, line: str, style: str | None = None) -> None:
        """Print a line above the bar, as it is."""
        self.console.print(printable(line), style=style, markup=False, highlight=False)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, and its figures."""
        yield self.make_tasks_table(self.tasks)
        yield from (Text(task.fields["figures"]) for task in self.tasks)


def print_line(line: str) -> None:
    """Print to standard error, at once."""
    print(printable(line), file=sys.stderr, flush=True)
