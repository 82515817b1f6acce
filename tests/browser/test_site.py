"""The documentation's pages in a real browser, opened from a folder: they are searched without a server."""

import re
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import Opener

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("site")]


def test_search_finds_a_page_without_a_server(site: Path, opened: Opener) -> None:
    page = opened(site, "/teachers/index.html")
    page.keyboard.press("Control+k")
    page.get_by_role("combobox", name="Search").fill("tuning the logit scales")
    page.get_by_role("option", name="Tuning the logit scales").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("Tuning the logit scales"))


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1440, "dark"), (390, "light")])
def test_pages_are_readable_and_no_wider_than_the_window(
    site: Path, opened: Opener, width: int, scheme: Literal["light", "dark"]
) -> None:
    for name in ("format", "commands"):
        page = opened(site, f"/{name}.html", width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        found = Axe().run(
            page, context="article", options={"runOnly": ["color-contrast", "image-alt", "heading-order"]}
        )
        assert found.violations_count == 0, f"{name}\n{found.generate_report()}"
