"""A page stands alone, and shows as text whatever it is given."""

import json
import re
import sys
from pathlib import Path

import pytest

from dr_pipeline.errors import ConfigError
from dr_pipeline.report.page import frame
from dr_pipeline.report.page.charts import Counts, Line, density, histogram, lines
from dr_pipeline.report.page.frame import Page, Section, render_page, write_page
from dr_pipeline.report.page.parts import Bar, bars, facts, note, table

HOSTILE = "</script><script>alert(1)</script><!--\u2028\u2029\ud800&\"'"


def embedded(html: str) -> object:
    """The data in a page, as its script reads them."""
    return json.loads(re.findall(r'<script type="application/json" id="page-data">(.*?)</script>', html, re.DOTALL)[0])


def test_text_is_escaped_wherever_it_is_given() -> None:
    text = HOSTILE.replace("\ud800", "")
    body = [
        facts({text: text}),
        note(text),
        table(text, [text], [[text]], text),
        bars(text, [Bar(text, 1, text)], text),
        lines(text, [Line(text, [0, 1], [1, 2]), Line(text, [0], [1])], text, text),
        histogram(text, [Counts(text, [1, 2])], [0, 1, 2], text, text),
        density(text, [[1]], [0, 1], [0, 1], text, text),
    ]
    html = render_page(Page(text, text, [Section("All", body)]))
    assert "<script>alert" not in html
    assert "<!--" not in html.replace("<!doctype", "")
    assert html.count("&lt;/script&gt;") > 20


def test_half_a_letter_is_shown_as_its_number(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", Page("a\ud800b", "", []))
    assert "<title>a\\ud800b</title>" in (tmp_path / "page.html").read_text()


def test_data_come_through_as_they_are() -> None:
    html = render_page(Page("a page", "", [], data={"text": HOSTILE}))
    assert embedded(html) == {"text": HOSTILE}
    assert html.isascii()


def test_numbers_that_json_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        render_page(Page("a page", "", [], data=float("nan")))


def test_a_chart_leaves_gaps_where_there_is_no_number() -> None:
    chart = lines("loss", [Line("run", [1, 2, 3, 4], [1.0, float("nan"), 3.0, 2.0])], "step", "loss")
    (path,) = re.findall(r'class="curve s0" d="([^"]*)"', chart)
    assert path == "M0 100M66.667 0L100 50"


def test_a_long_curve_is_drawn_by_means_of_neighbours() -> None:
    steps = [10 * step for step in range(1, 100_001)]
    noisy = [step / 1000 + (-1) ** (step // 10) for step in steps]
    noisy[50_000:50_250] = [float("nan")] * 250  # a gap of all that one point stands for
    chart = lines("loss", [Line("run", steps, noisy)], "step", "loss")
    (path,) = re.findall(r'class="curve s0" d="([^"]*)"', chart)
    ys = [float(y) for y in re.findall(r"[ML]\S+ ([^ML]+)", path)]
    assert len(ys) == 399
    assert ys == sorted(ys, reverse=True)
    assert path.count("M") == 2
    assert "A point is the mean of up to 250 logged values." in chart
    assert ">800,000</text>" in chart


def test_ticks_are_round_numbers() -> None:
    chart = lines("rate", [Line("run", [0, 1], [0.001, 0.1])], "step", "rate")
    assert re.findall(r'text-anchor="end">([^<]*)', chart) == ["0.02", "0.04", "0.06", "0.08", "0.1"]


@pytest.mark.parametrize("values", [[], [float("nan")], [float("inf")]])
def test_a_chart_of_nothing_says_so(values: list[float]) -> None:
    assert "nothing to draw" in lines("loss", [Line("run", [*range(len(values))], values)], "step", "loss")


def test_a_chart_of_one_value_has_an_axis() -> None:
    assert re.findall(r'class="curve s0" d="([^"]*)"', lines("loss", [Line("run", [3], [0.0])], "step", "loss")) == [
        "M50 50"
    ]


def test_a_page_without_jinja2_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    frame.environment.cache_clear()
    with pytest.raises(ConfigError, match=r"a page of HTML needs jinja2.*pip install 'dr-pipeline\[report\]'"):
        render_page(Page("a page", "", []))


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        write_page(tmp_path / "no folder" / "page.html", Page("a page", "", []))
