"""Progress in its three forms: JSON lines, plain lines, a bar."""

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardReport, ShardTask, describe_usage
from dr_pipeline.dataset.shard_patterns import LeftOut
from dr_pipeline.report.progress import BarProgress, JsonProgress, LineProgress, progress
from tests.conftest import make_job

TASKS = tuple(ShardTask(f"{index}.tar", f"in/{index}.tar", 10) for index in range(3))
PLAN = Plan(make_job(), TASKS[1:], TASKS[:1], (LeftOut("links that lead nowhere", 2, "in/[0].tar"),))
SECONDS = {"total": 1.5, "render": 9.0, "caption": 0.4, "device": 1.2}
WAITED = {"read": 5.0, "views": 0.3, "collect": 0.1}
LEFT_OUT = [{"why": "links that lead nowhere", "count": 2, "first": "in/[0].tar"}]
DONE = ShardReport(
    "1.tar",
    "u",
    "done",
    "f",
    9,
    7,
    28,
    14,
    {"no text": 2},
    123,
    "ab",
    SECONDS,
    WAITED,
    captions={"syn_text": {"drawn": 14}},
)
EMPTY = ShardReport("0.tar", "u", "done", "f", seconds={"total": 0.1}, passed_over={})
FAILED = ShardReport("2.tar", "u", "failed", "f", error="truncated: [red] it ends")


def show(form: BarProgress | LineProgress | JsonProgress) -> None:
    form.planned(PLAN)
    form.reported(DONE)
    form.reported(FAILED)
    form.close()


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show(JsonProgress())
    planned, done, failed = map(json.loads, capsys.readouterr().out.splitlines())
    assert planned == {"event": "planned", "todo": 2, "done": 1, "left_out": LEFT_OUT}
    assert (done["event"], done["name"], done["num_written"], done["skipped"]) == ("shard", "1.tar", 7, {"no text": 2})
    assert (failed["status"], failed["error"]) == ("failed", "truncated: [red] it ends")


def test_tokens_and_cost_of_an_endpoint_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    used = {"requests": 9, "retries": 2, "failures": 0, "prompt_tokens": 1_000, "completion_tokens": 70, "cost": 1.25}
    lines = LineProgress()
    lines.planned(PLAN)
    lines.reported(replace(DONE, usage={"syn_text": used, "syn_text_tags": used}))
    assert re.search(r"captions/s, [\d,]+ tokens/s, cost 2.50, ", capsys.readouterr().err)
    assert describe_usage("k", used) == "k: 9 requests, 2 retries, 1,000 + 70 tokens, cost 1.25"
    del used["cost"]
    assert describe_usage("k", used | {"failures": 1}) == "k: 9 requests, 2 retries, 1 failures, 1,000 + 70 tokens"


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show(LineProgress())
    out, error = capsys.readouterr()
    planned, left_out, done, failed = error.splitlines()
    assert left_out == "left out 2: links that lead nowhere; the first is in/[0].tar"
    assert out == ""
    assert planned == "tiny: 2 shards to do, 1 done; loading models"
    assert done.startswith("done 1.tar: 7 of 9 samples, 28 views, 1.5 s; 1 left, ")
    assert "samples/s" in done
    assert "views/s" in done
    assert "captions/s" in done
    assert done.endswith("device busy 80%, 2 skipped")
    assert failed == "failed 2.tar: truncated: [red] it ends"


def test_what_held_no_sample_and_what_was_passed_over_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = LineProgress()
    lines.planned(PLAN)
    lines.reported(EMPTY)
    lines.reported(replace(DONE, passed_over={"folder": 1, "name without key": 2}))
    *_, empty, done = capsys.readouterr().err.splitlines()
    assert empty.startswith("done 0.tar: no sample, as its tar has no member, 0 views")
    assert done.startswith("done 1.tar: 7 of 9 samples, 3 members passed over, 28 views")
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    bar = BarProgress()
    bar.planned(PLAN)
    bar.reported(EMPTY)
    bar.reported(DONE)
    bar.close()
    assert "done 0.tar: no sample, as its tar has no member" in terminal.getvalue()
    assert "done 1.tar" not in terminal.getvalue()


def test_a_bar_with_rates_and_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    show(BarProgress())
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())  # without colours
    assert "3/3" in text
    assert "left out 2: links that lead nowhere; the first is in/[0].tar" in text
    assert "samples/s" in text
    assert "2 skipped" in text
    assert "failed 2.tar: truncated: [red] it ends" in text


def test_a_bar_that_never_began_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    BarProgress().close()


def test_the_form_fits_where_it_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(progress(as_json=True), JsonProgress)
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        assert isinstance(progress(as_json=False), LineProgress)
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    assert isinstance(progress(as_json=False), BarProgress)
