"""Pieces of a page that show what a model found: a query, and the answers that are nearest to it."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from dr_pipeline.report.page.frame import make_piece

if TYPE_CHECKING:
    from markupsafe import Markup

_LONGEST_SIDE = 144
_QUALITY = 80


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
