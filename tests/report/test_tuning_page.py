"""The page of a tuning, by the files that one leaves."""

import json
from pathlib import Path

import pytest

from dr_pipeline.cli import main
from dr_pipeline.tuning.results import Trial, Tuning, run_folder
from tests.report.conftest import text_of
from tests.report.test_comparison import leave_run

FIGURES = {"teacher <a>": [0.3, 0.5, 0.4], ".b": [0.2, 0.25, 0.35]}
SCALES = [5.0, 15.0, 45.0]


def leave_tuning(folder: Path) -> Path:
    """The folder of a tuning of two teachers, of which a run failed, as `tune` leaves it."""
    trials = []
    for teacher, figures in FIGURES.items():
        for scale, figure in zip(SCALES, figures, strict=True):
            run = Path(run_folder(str(folder), teacher, scale))
            run.parent.mkdir(parents=True, exist_ok=True)
            leave_run(run, figure, 0, teachers=(teacher,), logit_scales=(scale,))
            trials.append(Trial(teacher, scale, figure, None))
    trials.append(Trial(".b", 99.5, None, "the loss is <nan>"))
    record = Tuning("imagenet acc1", tuple(trials), ("job.yaml",)).record()
    (folder / "tuning.json").write_text(json.dumps(record))
    return folder


def test_the_best_scale_of_each_teacher_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["look", str(leave_tuning(tmp_path / "tuned")), "--html", str(page)]) == 0
    html = page.read_text()
    assert "<a>" not in html
    text = text_of(html)
    assert "best for teacher <a> 15 best for .b 45" in text
    assert "teacher <a> 15.0 50.0 best" in text
    assert ".b 99.5 failed" in text
    assert "failed: .b at 99.5: the loss is <nan>" in text
    assert "written to job.yaml" in text
    assert "teacher <a>: loss" in text
    (chart,) = [part for part in html.split("<figure") if "imagenet acc1 by logit scale" in part]
    assert chart.count('class="curve dots') == len(FIGURES)


def test_runs_that_are_gone_leave_the_results(tmp_path: Path) -> None:
    folder = leave_tuning(tmp_path / "tuned")
    (folder / "teacher%20%3Ca%3E/5/job.json").unlink()
    page = tmp_path / "page.html"
    assert main(["look", str(folder), "--html", str(page)]) == 0
    assert "teacher <a> 5.0 30.0" in text_of(page.read_text())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"metric": "x", "trials": [{"teacher": 1}], "written": []}'])
def test_results_that_cannot_be_read_are_named(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tuning.json").write_text(content)
    assert main(["look", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 2
    assert "its tuning.json cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_what_is_for_datasets_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", str(leave_tuning(tmp_path / "tuned")), "--key", "a"]) == 2
    assert "--key and --storage are for datasets" in capsys.readouterr().err
