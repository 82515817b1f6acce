"""The frame of a page: head, sections, style sheets, scripts and data, all in one file."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dr_pipeline.config.extras import require
from dr_pipeline.errors import ConfigError

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading of its own."""

    title: str
    body: "Sequence[Markup]"
    """Pieces by `parts` and `charts`, in order."""

    @property
    def anchor(self) -> str:
        """What a link to it is called."""
        return "-".join("".join(letter if letter.isalnum() else " " for letter in self.title.lower()).split())


@dataclass(frozen=True)
class Page:
    """What a page says."""

    title: str
    lead: str
    """The line below the title: where the thing lies that the page is about."""
    sections: Sequence[Section]
    data: Any = None
    """What the page's own script shows, as JSON has it."""
    assets: Sequence[str] = ()
    """Further style sheets and scripts, by their names in this package: `samples.css`, `samples.js`."""
    sources: Mapping[str, str] = field(default_factory=lambda: {"img-src": "data:"})
    """Kind of content → where it may come from, beside the page's own styles and scripts; nowhere else, by default."""


def find_place(path: Path | None, name: str) -> Path:
    """Where a page will be written, by default NAME.html in the working folder; asked before the page's work is done.

    Raises ConfigError where jinja2 or the folder is missing.
    """
    environment()
    path = path or Path(f"{name}.html")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}: make it first")
    return path


def write_page(path: Path, page: Page) -> None:
    """Write a page. Raises ConfigError where jinja2 is missing, or the file cannot be written."""
    html = render_page(page)
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: the page cannot be written: {error.strerror or error}") from error


def render_page(page: Page) -> str:
    """A page as HTML. Raises ConfigError where jinja2 is missing."""
    texts = _read_assets(page)
    html = (
        environment()
        .get_template("page.html")
        .render(
            page=page,
            policy=content_policy(page),
            styles=[text for name, text in texts.items() if name.endswith(".css")],
            scripts=[text for name, text in texts.items() if name.endswith(".js")],
        )
    )
    return html.encode(errors="backslashreplace").decode()  # JSON may hold halves of letters, which UTF-8 has not


def content_policy(page: Page) -> str:
    """The Content-Security-Policy of a page: its own styles and scripts run, by their digests, and nothing else."""
    policy = {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", **page.sources}
    digests: dict[str, list[str]] = {"style-src": [], "script-src": []}
    for name, text in _read_assets(page).items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        digests["style-src" if name.endswith(".css") else "script-src"].append(f"'sha256-{digest}'")
    policy |= {kind: " ".join(of_kind) or "'none'" for kind, of_kind in digests.items()}
    return "; ".join(f"{kind} {sources}" for kind, sources in policy.items())


@cache
def environment() -> "jinja2.Environment":
    """The templates of this package, which escape all that they are given. Raises ConfigError without jinja2."""
    require("jinja2", "a page of HTML")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dr_pipeline.report.page", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def make_piece(template: str, macro: str, *values: Any) -> "Markup":
    """What a macro of a template makes of these values."""
    made: Markup = getattr(environment().get_template(template).module, macro)(*values)
    return made


def _read_assets(page: Page) -> dict[str, str]:
    """The style sheets and scripts of a page by their names."""
    folder = files("dr_pipeline.report.page")
    return {name: folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", *page.assets)}
