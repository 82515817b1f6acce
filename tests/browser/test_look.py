"""The page of a dataset in a real browser: of noise images with hostile captions, reinforced by the demo's models."""

import re
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from dr_pipeline.report.look.look import look
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from tests.browser.conftest import Opener
from tests.conftest import make_sample_members, write_tar
from tests.demo_job import Silent, demo_job

pytestmark = pytest.mark.browser

HOSTILE = {
    "tag": "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "end": "</script><script>alert(3)</script>",
    "comment": "<!-- <script>",
    "lines": "first\u2028second\u2029third",
    "direction": "\u202eright to left\u2066 \u05e9\u05dc\u05d5\u05dd",
    "template": "{{ 7 * 7 }} ${alert(4)} {% raw %}",
    "attribute": "\"' onmouseover=alert(5) &lt;b&gt; &amp;",
    "huge": "word " * 20_000,
    "wide": "W" * 3000,
    "emoji": "\U0001f98a\u200d\U0001f525 \u0e01\u0e33",
}
NUM_PLAIN = 16
NUM_SAMPLES = NUM_PLAIN + len(HOSTILE)
KEY = "a 'key' #1 <b>%41"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, with samples that were skipped."""
    folder = tmp_path_factory.mktemp("look")
    captions = {f"p{index:02}": f"a plain caption number{index}" for index in range(NUM_PLAIN - 1)}
    captions |= {KEY: "the sample of an odd key"} | {f"h_{name}": text for name, text in HOSTILE.items()}
    names = [*captions]
    for shard in range(2):
        half = names[shard::2]
        members = [m for key in half for m in make_sample_members(key, captions[key], seed=len(key) + names.index(key))]
        broken = [(f"z{shard}_broken.jpg", b"<script>no image"), (f"z{shard}_broken.txt", b"broken")]
        write_tar(folder / "in" / f"{shard}.tar", [*members, *broken])
    run(demo_job(folder / "in", folder / "out", "errors.max_skipped=0.5"), Silent())
    return folder / "out"


@pytest.fixture(scope="session")
def html(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page."""
    return look(str(dataset), Storage(), tmp_path_factory.mktemp("page") / "page.html").path


def keys(page: Page) -> list[str]:
    """Of the samples that are shown."""
    return page.locator(".sample .key").all_text_contents()


def status(page: Page) -> str:
    return page.locator(".status").inner_text()


def search(page: Page, words: str, expected: str) -> None:
    page.get_by_role("searchbox").fill(words)
    expect(page.locator(".status")).to_have_text(expected)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_page_is_accessible_and_no_wider_than_the_window(
    opened: Opener, html: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    page = opened(html, width=width, scheme=scheme)
    page.locator(".sample .view").first.click()
    search(page, "h_", f"1–10 of {len(HOSTILE)}")
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert [violation["id"] for violation in Axe().run(page).response["violations"]] == []


def test_hostile_captions_are_shown_as_text(opened: Opener, html: Path) -> None:
    page = opened(html)
    for name, text in HOSTILE.items():
        page.get_by_role("searchbox").fill(f"h_{name}")
        expect(page.locator(".sample .key")).to_have_text([f"h_{name}"])
        shown = page.locator(".caption").first.text_content() or ""
        assert shown == text[:2000]
        more = len(text) - len(shown)
        assert not more or f"{more:,} more letters" in page.locator(".sample td").first.inner_text()
    assert page.locator("main script, main img[src='x']").count() == 0


def test_a_long_caption_is_folded_until_it_is_asked_for(opened: Opener, html: Path) -> None:
    page = opened(html)
    search(page, "h_huge", "1–1 of 1")
    caption = page.locator(".caption").first

    def height() -> float:
        return float(caption.evaluate("each => each.getBoundingClientRect().height"))

    folded = height()
    page.get_by_role("button", name="Whole text").press("Enter")
    assert height() > 2 * folded
    page.get_by_role("button", name="Less").click()
    assert height() == folded


def test_each_view_is_its_own_part_of_the_strip(opened: Opener, html: Path) -> None:
    pictures = opened(html).locator(".sample").first.locator(".view img")
    assert pictures.evaluate_all("all => all.map(each => each.style.objectPosition)") == [
        "0% 0px",
        "50% 0px",
        "100% 0px",
    ]
    assert len(set(pictures.evaluate_all("all => all.map(each => each.src)"))) == 1


def test_search_finds_words_of_captions(opened: Opener, html: Path) -> None:
    page = opened(html)
    assert status(page) == f"1–10 of {NUM_SAMPLES}"
    search(page, "number3", "1–1 of 1")
    assert keys(page) == ["p03"]
    search(page, "PLAIN caption number1", "1–6 of 6")  # 1, 10, 11, …
    search(page, "nothing has this", "No sample fits")
    assert keys(page) == []


def test_pages_hold_every_sample_once(opened: Opener, html: Path) -> None:
    page = opened(html)
    seen = keys(page)
    while page.get_by_role("button", name="Next").is_enabled():
        page.get_by_role("button", name="Next").click()
        expect(page.locator(".status")).to_have_text(re.compile(f"^{len(seen) + 1}–"))
        seen += keys(page)
    assert len(seen) == len(set(seen)) == NUM_SAMPLES
    page.get_by_role("button", name="Previous").click()
    expect(page.locator(".status")).to_have_text(re.compile("^11–20"))


def test_the_worst_samples_come_first(opened: Opener, html: Path) -> None:
    page = opened(html)
    expect(page.get_by_role("combobox", name="Order")).to_have_value("similarity up")
    first = keys(page)
    page.get_by_role("combobox", name="Order").select_option("similarity down")
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Next").click()
    assert keys(page)[-1] == first[0]


def test_order_is_by_the_similarity_of_the_chosen_captions(opened: Opener, html: Path) -> None:
    page = opened(html)
    page.get_by_role("combobox", name="Captions").select_option("text")

    def cosines(order: str) -> list[float]:
        page.get_by_role("combobox", name="Order").select_option(order)
        return [float(text) for text in page.locator("td[data-name='mean']").all_inner_texts()]

    lowest, highest = cosines("similarity up"), cosines("similarity down")
    assert len(lowest) == len(highest) == 10
    assert lowest == sorted(lowest)
    assert highest == sorted(highest, reverse=True)
    assert lowest[0] < highest[-1]


def test_shards_are_filtered(opened: Opener, html: Path) -> None:
    page = opened(html)
    page.get_by_role("combobox", name="Shard").select_option("1.tar")
    expect(page.locator(".status")).to_have_text(f"1–10 of {NUM_SAMPLES // 2}")
    assert set(page.locator(".line .quiet").all_text_contents()) == {"1.tar"}


def test_address_opens_the_page_at_a_sample(opened: Opener, html: Path) -> None:
    page = opened(html)
    search(page, "odd key", "1–1 of 1")
    page.locator(".sample .key").click()
    expect(page.locator(".sample.opened .key")).to_have_text(KEY)
    again = opened(html, address=page.evaluate("location.hash"))
    expect(again.locator(".sample.opened .key")).to_have_text(KEY)
    assert status(again) != f"1–10 of {NUM_SAMPLES}"
    expect(again.locator(".sample.opened")).to_be_in_viewport()


def test_page_of_a_key_opens_at_it(opened: Opener, dataset: Path, tmp_path: Path) -> None:
    page = opened(look(str(dataset), Storage(), tmp_path / "page.html", "p14").path)
    expect(page.locator(".sample.opened .key")).to_have_text("p14")
    expect(page.locator(".sample.opened")).to_be_focused()


def test_page_opens_at_a_skipped_sample_too(opened: Opener, dataset: Path, tmp_path: Path) -> None:
    page = opened(look(str(dataset), Storage(), tmp_path / "page.html", "z1_broken").path)
    expect(page.locator(".sample.opened .warning")).to_contain_text("skipped: corrupt image")


def test_skipped_samples_are_listed(opened: Opener, html: Path) -> None:
    page = opened(html)
    rows = page.locator("#skipped tbody tr").all_inner_texts()
    assert [row.split("\t")[:3] for row in rows[-2:]] == [
        [f"z{shard}_broken", f"{shard}.tar", "corrupt image"] for shard in range(2)
    ]


def test_keyboard_reaches_search_and_views_and_shows_a_crop(opened: Opener, html: Path) -> None:
    page = opened(html)
    page.get_by_role("searchbox").focus()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('view')"):
            break
    sample = page.locator(".sample").first
    expect(sample.locator(".view").first).to_be_focused()
    assert sample.locator(".crop").count() == sample.locator(".view").count() == 3
    expect(sample.locator(".crop").first).to_have_class("crop chosen")
    assert re.match(r"View 0: crop \d+ × \d+ px at \d+, \d+", sample.locator(".described").inner_text())
    page.keyboard.press("ArrowRight")
    expect(sample.locator(".crop").nth(1)).to_have_class("crop chosen")
    page.keyboard.press("Enter")
    expect(sample.locator(".view").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(sample.locator(".view").first).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("End")
    expect(sample.locator(".view").last).to_be_focused()
    page.keyboard.press("Tab")  # a strip of any length is passed at once
    expect(page.locator(".sample").nth(1).locator(".key")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(sample.locator(".view").last).to_be_focused()
    sample.locator(".view").nth(1).click()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    expect(sample.locator(".view").nth(1)).to_be_focused()


def test_the_sections_stay_in_reach_and_cover_nothing_that_is_gone_to(opened: Opener, html: Path) -> None:
    page = opened(html, width=390)
    page.emulate_media(reduced_motion="reduce")  # so that it is there at once
    page.get_by_role("navigation").get_by_role("link", name="Samples").click()
    links = page.get_by_role("navigation").bounding_box()
    heading = page.get_by_role("heading", name="Samples").bounding_box()
    assert links
    assert heading
    assert links["y"] == 0
    assert heading["y"] >= links["height"]


def test_a_printed_page_has_whole_tables_and_no_controls(opened: Opener, html: Path) -> None:
    page = opened(html)
    page.emulate_media(media="print")
    assert page.locator(".scroll").evaluate_all("all => all.every(each => each.scrollHeight <= each.clientHeight)")
    expect(page.locator(".toolbar").first).to_be_hidden()
    expect(page.get_by_role("navigation")).to_be_hidden()
    page.emulate_media(media="screen")
    page.get_by_role("searchbox").fill("huge")
    long = page.locator(".sample .folded")
    expect(long).to_have_count(1)
    height = long.bounding_box()
    page.emulate_media(media="print")
    whole = long.bounding_box()
    assert height
    assert whole
    assert whole["height"] > 2 * height["height"], "no button unfolds it on paper"


def test_crops_lie_where_the_stored_parameters_say(opened: Opener, html: Path) -> None:
    page = opened(html)
    sample = page.locator(".sample").first
    width, height, left, top = map(
        int, re.findall(r"\d+", sample.locator(".view").first.get_attribute("aria-label") or "")[1:5]
    )
    image, crop = (sample.locator(name).first.bounding_box() for name in (".frame img", ".crop"))
    assert image
    assert crop
    scale = image["width"] / 40  # pixels of the test's images
    expected = (image["x"] + left * scale, image["y"] + top * scale, width * scale, height * scale)
    # Half a line's width lies outside.
    assert [crop[side] for side in ("x", "y", "width", "height")] == pytest.approx(expected, abs=1.6)


def test_crops_have_the_colours_of_their_views(opened: Opener, html: Path) -> None:
    sample = opened(html).locator(".sample").first
    crops = sample.locator(".crop").evaluate_all("all => all.map(each => getComputedStyle(each).stroke)")
    views = sample.locator(".view").evaluate_all(
        "all => all.map(each => getComputedStyle(each, '::after').backgroundColor)"
    )
    assert crops == views
    assert len(set(crops)) == 3


def test_names_are_whole_where_there_is_room(opened: Opener, html: Path) -> None:
    wide, narrow = opened(html), opened(html, width=390)
    assert not wide.locator(".captions thead th").evaluate_all("all => all.some(th => th.scrollWidth > th.clientWidth)")
    key = narrow.locator("td bdi", has_text="syn_text_scene_coca").first
    assert key.evaluate("inline => inline.getClientRects().length") == 1
