"""The pages of training runs in a real browser: of a student with hostile names, a classifier, several, a tuning."""

from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from dr_pipeline.cli import main
from tests.browser.conftest import Opener
from tests.report.conftest import HOSTILE, OF_RUNS, classifier_run, student_run
from tests.report.test_comparison import leave_run
from tests.report.test_tuning_page import leave_tuning

__all__ = ["classifier_run", "student_run"]

pytestmark = [pytest.mark.browser, OF_RUNS]


@pytest.fixture(scope="session")
def pages(student_run: Path, classifier_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    looked_at = {"student": student_run, "classifier": classifier_run, "tuning": leave_tuning(folder / "tuned")}
    pages = {kind: folder / f"{kind}.html" for kind in (*looked_at, "comparison")}
    for kind, path in looked_at.items():
        assert main(["look", str(path), "--html", str(pages[kind])]) == 0
    runs = [
        leave_run(folder / f"{HOSTILE.replace('/', ' ')} {weight} {seed}", weight, seed, weight=weight)
        for weight in (0.25, 0.5, 0.75)
        for seed in range(2)
    ]
    assert main(["compare", *runs, "--html", str(pages["comparison"])]) == 0
    return pages


@pytest.mark.parametrize(
    ("kind", "width", "scheme"),
    [
        ("student", 390, "dark"),
        ("student", 1440, "light"),
        ("comparison", 390, "light"),
        ("comparison", 1440, "dark"),
        ("classifier", 390, "dark"),
        ("tuning", 390, "light"),
    ],
)
def test_pages_are_accessible_and_no_wider_than_the_window(
    opened: Opener, pages: dict[str, Path], kind: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    page = opened(pages[kind], width=width, scheme=scheme)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert [violation["id"] for violation in Axe().run(page).response["violations"]] == []


def test_hostile_names_are_shown_as_text(opened: Opener, pages: dict[str, Path]) -> None:
    page = opened(pages["student"])
    expect(page.get_by_role("heading", level=1)).to_have_text(f"student {HOSTILE}")
    assert page.get_by_text(HOSTILE).count() >= 1
    assert page.locator("main script, img[src='x'], main b").count() == 0
    compared = opened(pages["comparison"])
    assert compared.locator("main script, img[src='x'], main b").count() == 0


def test_a_name_is_broken_only_where_it_is_wider_than_the_page(opened: Opener, pages: dict[str, Path]) -> None:
    page = opened(pages["student"], width=390)
    name = page.locator(".facts bdi").first
    name.evaluate("each => each.textContent = 'scene_student_of_two'")
    assert name.evaluate("each => each.getClientRects().length") == 1
    name.evaluate("each => each.textContent = 'x'.repeat(500)")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_every_picture_is_there(opened: Opener, pages: dict[str, Path]) -> None:
    page = opened(pages["student"])
    sizes = page.evaluate("Promise.all([...document.images].map(each => each.decode().then(() => each.naturalWidth)))")
    assert len(sizes) > 20
    assert min(sizes) > 0


def test_a_configuration_has_one_colour_on_the_whole_page(opened: Opener, pages: dict[str, Path]) -> None:
    page = opened(pages["comparison"])
    color = "(each) => getComputedStyle(each).fill"
    legend = page.locator(".legend").first
    names, swatches = legend.locator("li").all_text_contents(), legend.locator("rect")
    drawn = {name.strip(): swatches.nth(index).evaluate(color) for index, name in enumerate(names)}
    assert len({*drawn.values()}) == 3
    for row in page.locator(".spread li").all():
        name = row.locator(".name").inner_text()
        assert row.locator("circle").first.evaluate(color) == drawn[name]
