"""Pieces of a page that are text: facts, notes, tables, and tables whose rows have bars."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dr_pipeline.report.page.frame import make_piece

if TYPE_CHECKING:
    from markupsafe import Markup


class Bar(NamedTuple):
    """A row of `bars`."""

    name: str
    size: float
    """How long it is, beside the others; not negative."""
    shown: str
    """The value as it is read, such as `1.2 GB`."""


def facts(values: Mapping[str, str]) -> "Markup":
    """Short facts side by side: name → value."""
    return make_piece("parts.html", "facts", values)


def note(text: str) -> "Markup":
    """A remark, the whole width of the page."""
    return make_piece("parts.html", "note", text)


def warning(text: str) -> "Markup":
    """A remark that something is wrong."""
    return make_piece("parts.html", "warning", text)


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Any]], remark: str = "") -> "Markup":
    """A table. Numbers stand to the right; None is an empty cell. `remark`: a line below it."""
    return make_piece("parts.html", "table", caption, header, [*rows], remark)


def bars(title: str, rows: Iterable[Bar], remark: str = "") -> "Markup":
    """A table of names and values with a bar for each. `remark`: a line below it."""
    rows = [*rows]
    return make_piece("parts.html", "bars", title, rows, max((row.size for row in rows), default=0) or 1, remark)


def tally(title: str, counts: Iterable[tuple[str, int]], remark: str = "") -> "Markup":
    """Bars of counted things."""
    return bars(title, [Bar(name, count, f"{count:,}") for name, count in counts], remark)


def browser(shards: Sequence[str] | None, kinds: Mapping[str, str], orders: Mapping[str, str]) -> "Markup":
    """What `samples.js` shows samples in.

    `shards`: to choose from; None where a server has them, which is asked for a shard or a key by its name. `kinds`: of
    captions, and `orders`: each by the value that the script knows → name.
    """
    return make_piece("samples.html", "browser", shards, kinds, orders)
