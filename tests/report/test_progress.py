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
from dr_pipeline.reinforce.tally import ShardProgress, Tally, WorkerProgress, WorkersProgress
from dr_pipeline.report.progress import BarProgress, JsonProgress, LineProgress, progress
from dr_pipeline.report.recorder import Recorder
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


USED = {"requests": 9, "retries": 2, "failures": 0, "prompt_tokens": 1_000, "completion_tokens": 70, "cost": 1.25}
IN_WORK = {"2.tar": ShardProgress(0.5, 3, {"no text": 1})}


def at_work(seconds: float = 10.0, **counts: float) -> WorkersProgress:
    """A worker with a shard in work, half of which is done."""
    known = {"worker_seconds": seconds, "core_seconds": 2 * seconds, "shard_seconds": 2 * seconds, "samples_read": 9}
    return WorkersProgress((WorkerProgress(None, 3.0, Tally({**known, **counts}), IN_WORK),))


LOADING = WorkersProgress((WorkerProgress("teacher [red]", 61.0),), num_pending=3)


def show(form: BarProgress | LineProgress | JsonProgress) -> None:
    recorder = Recorder(PLAN)
    form.planned(PLAN)
    form.progressed(recorder.take(LOADING))
    form.progressed(recorder.take(at_work(captions_drawn=18)))
    for report in (DONE, FAILED):
        recorder.add(report)
        form.reported(report)
    form.progressed(recorder.take(WorkersProgress(gone=at_work(20.0, captions_drawn=28, busy_seconds=8.0).counts)))
    form.close()


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show(JsonProgress())
    planned, loading, first, done, failed = map(json.loads, capsys.readouterr().out.splitlines())
    assert planned == {"event": "planned", "todo": 2, "done": 1, "left_out": LEFT_OUT}
    assert (loading["event"], loading["loading"], loading["num_pending"]) == ("progress", "teacher [red]", 3)
    assert (first["event"], first["num_done"], first["num_shards"], first["num_samples"]) == ("progress", 1, 3, 3)
    assert (done["event"], done["name"], done["num_written"], done["skipped"]) == ("shard", "1.tar", 7, {"no text": 2})
    assert (failed["status"], failed["error"]) == ("failed", "truncated: [red] it ends")


def test_tokens_and_cost_of_an_endpoint_are_shown() -> None:
    recorder = Recorder(PLAN)
    recorder.add(replace(DONE, usage={"syn_text": USED, "syn_text_tags": USED}))
    assert ", cost 2.50, " in str(recorder.take(at_work()))
    assert describe_usage("k", USED) == "k: 9 requests, 2 retries, 1,000 + 70 tokens, cost 1.25"
    free = {name: number for name, number in USED.items() if name != "cost"}
    assert describe_usage("k", free | {"failures": 1}) == "k: 9 requests, 2 retries, 1 failure, 1,000 + 70 tokens"


def test_no_models_are_loaded_where_no_shard_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    LineProgress().planned(replace(PLAN, todo=(), left_out=()))
    assert capsys.readouterr().err == "tiny: 0 shards to do, 1 done\n"


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show(LineProgress())
    out, error = capsys.readouterr()
    planned, left_out, loading, first, done, failed, last = error.splitlines()
    assert left_out == "left out 2: links that lead nowhere; the first is in/[0].tar"
    assert out == ""
    assert planned == "tiny: 2 shards to do, 1 done; loading models"
    assert loading.endswith("loading teacher [red] for 0:01:01")
    assert first == (
        "1 of 3 shards, 3 of about 12 samples, 0:00:30 left; 0.3 samples/s (0.3 on average), 0.0 views/s, "
        "1.8 captions/s, 1 skipped, 1 worker"
    )
    assert done == "done 1.tar: 7 of 9 samples, 28 views, 1.5 s; 1 left"
    assert failed == "failed 2.tar: truncated: [red] it ends"
    assert last.startswith("2 of 3 shards, 1 failed, 7 samples; ")
    assert re.search(r"\d samples/s \(.* on average\), .* views/s, .* captions/s, device busy \d+%.* 2 skipped$", last)


def test_what_is_loaded_is_said_until_there_are_models() -> None:
    recorder = Recorder(PLAN)
    waiting = str(recorder.take(LOADING))
    assert waiting == "1 of 3 shards; 4 workers (1 loading, 3 not begun): loading teacher [red] for 0:01:01"
    loaded = replace(LOADING, workers=(*LOADING.workers, WorkerProgress(None, 90.0, Tally({"samples_read": 4}))))
    said = str(recorder.take(loaded))
    assert said == (
        "1 of 3 shards; 4 samples read, 0 captions drawn, 0 views embedded, "
        "5 workers (1 at work, 1 loading, 3 not begun)"
    )
    assert str(recorder.take(WorkersProgress(num_pending=2))) == "1 of 3 shards; 2 workers (2 not begun)"


def test_a_hundred_thousand_shards_do_not_flood_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LineProgress()
    lines.planned(PLAN)
    for _ in range(500):
        lines.reported(DONE)
        lines.reported(FAILED)
    lines.close()
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) < 50
    assert shown[-2:] == ["done 480 shards more", "failed 480 shards more"]


def test_a_log_has_neither_escape_codes_nor_carriage_returns(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LineProgress()
    lines.planned(PLAN)
    lines.progressed(Recorder(PLAN).take(WorkersProgress((WorkerProgress("teacher \x1b[31mred\r", 61.0),))))
    lines.reported(replace(FAILED, error="\x1b[2J\rgone"))
    lines.close()
    assert not set("\x1b\r") & set(capsys.readouterr().err)


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


@pytest.mark.parametrize("form", [BarProgress, LineProgress, JsonProgress])
def test_a_display_that_never_began_can_be_closed(
    form: type[BarProgress | LineProgress | JsonProgress], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    form().close()


def test_the_form_fits_where_it_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(progress(as_json=True), JsonProgress)
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        assert isinstance(progress(as_json=False), LineProgress)
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    assert isinstance(progress(as_json=False), BarProgress)
