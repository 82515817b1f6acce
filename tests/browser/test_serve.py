"""The page of a dataset from its server in a real browser: all samples of many shards, hostile keys and captions."""

import re
from collections.abc import Iterator
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from dr_pipeline.dataset import manifest
from dr_pipeline.dataset.manifest import SampleRow
from dr_pipeline.storage import Storage
from tests.browser.conftest import Opener
from tests.browser.test_look import HOSTILE
from tests.served import Server, served
from tests.tars import Member
from tests.verification.datasets import write_dataset

pytestmark = pytest.mark.browser

NUM_SHARDS = 40
NUM_SAMPLES = 3 * NUM_SHARDS
KEY = "<img src=x onerror=alert(6)>'\"&#k %2e"
TEXTS = {f"s{shard}_0": text for shard, text in enumerate(HOSTILE.values())}


def rename(key: str, members: list[Member]) -> list[Member]:
    """Hostile alt-texts, and the hostile key of one sample."""
    texts = {f"{key}.txt": TEXTS[key].encode()} if key in TEXTS else {}
    return [(name.replace("s33_1.", f"{KEY}.", 1), texts.get(name, data)) for name, data in members]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Forty shards, whose manifest tells similarities."""
    folder = tmp_path_factory.mktemp("many")
    write_dataset(folder, rename, num_shards=NUM_SHARDS)
    for shard in range(NUM_SHARDS):
        keys = [f"s{shard}_{index}" for index in range(3)]
        rows = [
            SampleRow(
                KEY if key == "s33_1" else key,
                captions=1,
                similarity=index + shard / 100,
                scores={"similarity/one/text": 0.5, "similarity/one/syn_text": -index - shard / 100, "nice": shard},
            )
            for index, key in enumerate(keys)
        ]
        rows.append(SampleRow(f"skipped_{shard}", skip_reason="no text", skip_detail="<i>none</i>"))
        manifest.write_sample_table(Storage(), str(folder), f"00/{shard}.tar", rows)
    with served(str(folder)) as running:
        yield running


@pytest.fixture
def page(opened: Opener, server: Server) -> Page:
    opened_page = opened(server.address)
    expect(status(opened_page)).to_have_text(f"1–10 of {NUM_SAMPLES}")
    return opened_page


def status(page: Page) -> Locator:
    return page.locator(".status")


def keys(page: Page) -> list[str]:
    return page.locator(".sample .key").all_text_contents()


def test_the_token_leaves_the_address(page: Page, server: Server) -> None:
    assert page.url == f"{server.origin}/"
    assert server.address.rpartition("/")[2] not in page.content()
    page.reload()
    expect(status(page)).to_have_text(f"1–10 of {NUM_SAMPLES}")


def test_a_browser_without_the_token_is_refused(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    try:
        shown = context.new_page()
        shown.goto(f"{server.origin}/")
        expect(shown.locator("body")).to_contain_text("Open the address that dr-pipeline printed")
        shown.goto(f"{server.origin}/enter/wrong")
        assert context.cookies() == []
    finally:
        context.close()


def test_a_page_of_another_site_gets_nothing(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    try:
        context.new_page().goto(server.address)  # the cookie is there
        foreign = context.new_page()
        foreign.goto(server.origin.replace("127.0.0.1", "localhost") + "/enter/wrong")
        script = "url => fetch(url, {credentials: 'include'}).then(r => r.text(), error => 'refused')"
        assert foreign.evaluate(script, f"{server.origin}/samples") == "refused"
    finally:
        context.close()


def test_every_sample_is_on_one_page_and_pictures_come(page: Page) -> None:
    seen = keys(page)
    while page.get_by_role("button", name="Next").is_enabled():
        page.get_by_role("button", name="Next").click()
        expect(status(page)).to_have_text(re.compile(f"^{len(seen) + 1}–"))
        seen += keys(page)
    assert len(seen) == len(set(seen)) == NUM_SAMPLES
    page.get_by_role("button", name="Previous").click()
    expect(status(page)).to_have_text(f"101–110 of {NUM_SAMPLES}")
    assert keys(page) == seen[100:110]
    page.wait_for_function("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert page.locator(".sample img").count() == 10 * 5
    assert {image.get_attribute("src").split("/")[1] for image in page.locator(".sample img").all()} == {
        "image",
        "views",
    }


def test_search_goes_through_all_shards(page: Page) -> None:
    page.get_by_role("searchbox").fill("ALT-TEXT of s2_")
    expect(status(page)).to_have_text("1–2")
    assert keys(page) == ["s2_1", "s2_2"]
    page.get_by_role("searchbox").fill("s39_2 thing")
    expect(status(page)).to_have_text("1–1")
    page.get_by_role("searchbox").fill("nothing has this")
    expect(status(page)).to_have_text("No sample fits")
    page.get_by_role("searchbox").fill("_1 cube")
    expect(status(page)).to_have_text(re.compile(r"1–10; \d+ of 40 shards searched"))
    page.get_by_role("button", name="Next").click()
    expect(status(page)).to_have_text(re.compile(r"^11–20; \d+ of 40"))


def test_a_shard_is_chosen_by_its_name(page: Page) -> None:
    page.get_by_label("Shard").fill("/31")
    expect(page.locator("#shards option")).to_have_count(1)
    page.get_by_label("Shard").fill("00/31.tar")
    page.keyboard.press("Tab")
    expect(status(page)).to_have_text("1–3")
    assert keys(page) == ["s31_0", "s31_1", "s31_2"]
    page.get_by_label("Shard").fill("00/99.tar")
    page.keyboard.press("Tab")
    expect(status(page)).to_contain_text("no shard 00/99.tar; did you mean 00/")


def test_worst_and_best_are_those_of_the_manifest(page: Page) -> None:
    page.locator("select[name=of]").select_option("text")
    page.get_by_label("Order").select_option("similarity up")
    expect(status(page)).to_have_text("1–10 of the 100 first")
    assert keys(page) == [f"s{shard}_0" for shard in range(10)]
    page.get_by_label("Order").select_option("similarity down")
    expect(page.locator(".sample .key").first).to_have_text("s39_2")
    page.locator("select[name=of]").select_option("syn_text")
    expect(page.locator(".sample .key").first).to_have_text("s0_0")
    page.get_by_label("Order").select_option("score:nice down")
    expect(page.locator(".sample .key").first).to_have_text(re.compile("^s39_"))
    page.get_by_role("button", name="Next").click()
    expect(status(page)).to_have_text("11–20 of the 100 first")
    page.get_by_role("searchbox").fill("s5_1")
    expect(page.get_by_label("Order")).to_have_value("stored")
    expect(status(page)).to_have_text("1–1")


def test_a_hostile_key_is_found_and_shown_as_text(page: Page) -> None:
    page.get_by_label("Go to key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator(".sample.opened .key")).to_have_text(KEY)
    expect(status(page)).to_have_text("1 sample, of 00/33.tar")
    page.reload()
    expect(page.locator(".sample.opened .key")).to_have_text(KEY)
    page.get_by_label("Go to key").fill("skipped_7")
    page.keyboard.press("Enter")
    expect(page.locator(".sample.opened .warning")).to_have_text("skipped: no text: <i>none</i>")
    page.get_by_label("Go to key").fill("s7_9")
    page.keyboard.press("Enter")
    expect(status(page)).to_contain_text("no sample 's7_9'; keys are such as")
    page.get_by_label("Go to key").fill("")
    page.keyboard.press("Tab")
    expect(status(page)).to_have_text(f"1–10 of {NUM_SAMPLES}")


def test_hostile_captions_are_shown_as_text(page: Page) -> None:
    for key, text in TEXTS.items():
        page.get_by_label("Go to key").fill(key)
        page.keyboard.press("Enter")
        expect(page.locator(".sample .key")).to_have_text([key])
        assert (page.locator(".caption").first.text_content() or "") == text[:2000]
    assert page.locator("main script, main img[src='x']").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_page_is_accessible_and_no_wider_than_the_window(
    opened: Opener, server: Server, width: int, scheme: Literal["light", "dark"]
) -> None:
    page = opened(server.address, width=width, scheme=scheme)
    expect(status(page)).to_have_text(f"1–10 of {NUM_SAMPLES}")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert [violation["id"] for violation in Axe().run(page).response["violations"]] == []


def test_a_server_that_does_not_answer_is_told(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(server.address)
        expect(status(page)).to_have_text(f"1–10 of {NUM_SAMPLES}")
        context.set_offline(True)
        page.get_by_role("searchbox").fill("x")
        expect(status(page)).to_have_text("The server does not answer: was it ended?")
    finally:
        context.close()
