"""The documentation as pages: all of them are built, without a broken link, and ask other machines for nothing."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

import dr_pipeline
from dr_pipeline.cli import program
from dr_pipeline.models import protocol
from tests.pages import ROOT

pytestmark = pytest.mark.xdist_group("site")
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


def in_nav(entry: Any) -> Iterator[str]:
    """The pages below an entry of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for child in entry.values() if isinstance(entry, dict) else entry:
            yield from in_nav(child)


class Loads(HTMLParser):
    """What a page has the browser load: scripts, styles, pictures."""

    def __init__(self, text: str):
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if address := dict(attrs).get(LOADS.get(tag, "")):
            self.addresses.append(address)


def files(site: Path, kind: str) -> Iterator[tuple[str, str]]:
    for path in sorted(site.rglob(f"*.{kind}")):
        yield str(path.relative_to(site)), path.read_text(encoding="utf-8")


def test_the_navigation_has_every_page_once(pages: Path) -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = [*in_nav(yaml.safe_load(text[text.index("nav:") :])["nav"])]
    assert [page for page in listed if not (pages / page).exists()] == []
    assert len(listed) == len(set(listed))
    written = {str(path.relative_to(pages)) for path in pages.rglob("*.md")}
    linked_elsewhere = {page for page in written if page.startswith(("jobs/", "teachers/", "examples/", "docker/"))}
    assert written - set(listed) - linked_elsewhere == set(), "a new page needs a line in mkdocs.yml's nav"


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for name, text in files(site, "html"):
        outside = [address for address in Loads(text).addresses if re.match(r"(https?:)?//", address)]
        assert not outside, name
    for name, text in files(site, "css"):
        assert not re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//[^)]*", text), name


@pytest.mark.slow
def test_the_api_has_every_public_name(site: Path) -> None:
    api = (site / "api.html").read_text(encoding="utf-8")
    assert [name for name in dr_pipeline.__all__ if f'id="dr_pipeline.{name}"' not in api] == []
    public = [name for name, it in vars(protocol).items() if getattr(it, "__module__", "") == protocol.__name__]
    classes = [name for name in public if name[0].isupper()]
    assert [name for name in classes if f'id="dr_pipeline.models.protocol.{name}"' not in api] == []


@pytest.mark.slow
def test_every_verb_and_recipe_has_its_place(site: Path) -> None:
    commands = (site / "commands.html").read_text(encoding="utf-8")
    assert [name for name in program.commands if f'<h3 id="{name}">' not in commands] == []
    recipes = (site / "recipes.html").read_text(encoding="utf-8")
    for path in [*ROOT.glob("jobs/**/*.yaml"), *ROOT.glob("teachers/**/*.yaml")]:
        address = path.relative_to(ROOT).with_suffix(".html")
        assert f'href="{address}"' in recipes, f"{address} is in no table of docs/recipes.md"
        assert (site / address).exists()
