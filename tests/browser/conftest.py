"""A real browser without a window, and pages opened in it that may neither complain nor ask for anything."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urljoin

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=60_000)  # ms; a machine that runs tests is busy, and 5 s are soon over
_NAMES = ("chromium", "chromium-browser", "google-chrome")


class Opener(Protocol):
    """Opens a file, or the address of a server, in a window of this width."""

    def __call__(
        self, path: Path | str, address: str = "", width: int = 1440, scheme: Literal["light", "dark"] = "light"
    ) -> Page: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium: the one that CHROMIUM names, or that of the system.

    As long as it lives it has an event loop on this thread, beside which `asyncio.run` refuses to work: tests of other
    files come after its end.
    """
    executable = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if not executable:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is installed, and CHROMIUM names none")
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = playwright.chromium.launch(executable_path=executable, args=sandbox)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opener]:
    """Opens pages. At the end none has complained, nor asked for anything but itself."""
    faults, contexts = [], []

    def open_page(
        path: Path | str, address: str = "", width: int = 1440, scheme: Literal["light", "dark"] = "light"
    ) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page, url = context.new_page(), path if isinstance(path, str) else path.resolve().as_uri()
        own = urljoin(url, "/") if isinstance(path, str) else url
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        page.on(
            "request",
            lambda request: None if request.url.startswith((own, "data:")) else faults.append(f"asks {request.url}"),
        )
        page.goto(url + address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
