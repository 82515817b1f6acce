"""What a training run shows: a bar, lines, or JSON, by real short runs."""

import io
import json
import re
import sys
from pathlib import Path

import pytest

from dr_pipeline.config.training import TrainJob
from dr_pipeline.demo.held_out import write_held_out
from dr_pipeline.report import training
from dr_pipeline.report.training import TrainingBar, TrainingJson, TrainingLines, training_display
from dr_pipeline.training.train import train
from tests.training.conftest import MakeJob

FIGURES = r"loss \d+\.\d{3}, [\d,]+ samples/s, data wait \d+%"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def shown(job: TrainJob, display: TrainingBar | TrainingLines | TrainingJson) -> None:
    train(job, display)
    display.close()


def test_lines_tell_the_first_steps_and_the_last(make_train_job: MakeJob, capsys: pytest.CaptureFixture[str]) -> None:
    shown(make_train_job(), TrainingLines())
    out, err = capsys.readouterr()
    title, size, teachers, *lines = err.splitlines()
    assert out == ""
    assert "\x1b" not in err
    assert re.fullmatch(r"tiny: .*architecture.*, 0\.0 M parameters, 32 px", title)
    assert size == "  6 steps × 4 = 24 samples; 1 shard"
    assert teachers == "  teachers: one (32 dims, logit scale 7), two (48 dims, logit scale 6); λ = 1"
    left = r", \d:\d\d:\d\d left"
    for line, said in zip(lines, ("1 of 6", f"2 of 6{left}", f"3 of 6{left}", "6 of 6"), strict=True):
        assert re.fullmatch(f"step {said}; {FIGURES}", line)


def test_lines_come_again_after_a_while(
    make_train_job: MakeJob, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_LINE_EVERY_SECONDS", 0.0)
    shown(make_train_job(), TrainingLines())
    assert capsys.readouterr().err.count(" left; ") == 4, "not of the first step, nor of the last"


def test_a_run_that_goes_on_says_so_and_shows_its_first_steps(
    make_train_job: MakeJob, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(make_train_job(schedule={"stop_at": 1}), TrainingLines())
    assert "  1 of 6 steps × 4 = 4 samples" in capsys.readouterr().err
    shown(make_train_job(), TrainingLines())
    _, *lines = capsys.readouterr().err.splitlines()
    assert lines[2] == "  going on after step 1"
    assert [line.partition(" of")[0] for line in lines[3:]] == ["step 2", "step 3", "step 4", "step 6"]


def test_evaluations_are_told(make_train_job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_held_out(tmp_path / "held_out", 8)
    task = {"name": "scenes\x1b[31m", "data": str(tmp_path / "held_out/classification/test")}
    shown(make_train_job(evaluation={"classification": [task]}), TrainingLines())
    err = capsys.readouterr().err
    assert re.search(r"^after step 6: scenes\\x1b\[31m acc1 \d+\.\d%$", err, re.MULTILINE)
    assert "\x1b" not in err


def test_json_lines_have_every_figure(make_train_job: MakeJob, capsys: pytest.CaptureFixture[str]) -> None:
    shown(make_train_job(), TrainingJson())
    out, err = capsys.readouterr()
    started, *steps = map(json.loads, out.splitlines())
    assert err == ""
    assert started == {"event": "started", "step": 0, "steps": 6}
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "learning_rate", "gradient_norm", "logit_scale", "samples_per_second", "wait_fraction"):
        assert all(isinstance(step[name], float) for step in steps), name


def test_a_bar_on_a_terminal(make_train_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    display = training_display(as_json=False)
    assert isinstance(display, TrainingBar)
    shown(make_train_job(), display)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.getvalue())
    assert "teachers: one (32 dims, logit scale 7)" in text
    assert re.search(rf"6/6 +steps .*left .*\n{FIGURES}", text)


def test_the_display_suits_where_the_output_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(training_display(as_json=False), TrainingLines)
    assert isinstance(training_display(as_json=True), TrainingJson)
