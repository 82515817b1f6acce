"""Pieces of a page that are text: facts, notes, tables, and tables whose rows have bars; and pieces with pictures.

A gallery shows what a model found: a query, and the answers that are nearest to it.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from dr_pipeline.report.page.frame import make_piece

if TYPE_CHECKING:
    from markupsafe import Markup


_LONGEST_SIDE = 144
"""Pixels of a picture in a gallery."""
_QUALITY = 80


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


@dataclass(frozen=True)
class Picture:
    """A small image within the page."""

    uri: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Choice:
    """An answer: a text, or a picture."""

    content: str | Picture
    score: str
    is_right: bool


@dataclass(frozen=True)
class Finding:
    """A query with the answers that were nearest, best first."""

    query: str | Picture
    verdict: str
    """How it went, such as `rank 3 of 400`."""
    is_right: bool
    """Whether the nearest answer is right."""
    choices: tuple[Choice, ...]
    missed: tuple[str | Picture, ...] = ()
    """Right answers, where none of the nearest is."""


def picture(image: Image.Image, alt: str) -> Picture:
    """A copy of an image for a page: a JPEG of few kilobytes."""
    small = image.convert("RGB")
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(uri, small.width, small.height, alt)


def gallery(title: str, findings: Iterable[Finding], remark: str = "") -> "Markup":
    """Queries side by side. `remark`: a line below the title. A page with it has `gallery.css` among its assets."""
    return make_piece("gallery.html", "gallery", title, [*findings], remark)
