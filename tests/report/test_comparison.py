"""Runs of several configurations and seeds, by the files that training leaves."""

import json
import re
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from dr_pipeline.cli import main
from dr_pipeline.config.training import TrainJob
from dr_pipeline.training.checkpoint import RunFolder
from dr_pipeline.training.metrics import MetricsLog, StepMetrics
from tests.report.conftest import text_of

ACCURACIES = {"full": [0.50, 0.53, 0.59], "half": [0.40, 0.41]}


def leave_run(folder: Path, accuracy: float, seed: int, shards: str = "data", **distillation: Any) -> str:
    """The folder of a run that was evaluated twice, as `train` leaves it."""
    job = TrainJob.model_validate(
        {
            "name": "ablation",
            "seed": seed,
            "data": {"shards": shards},
            "student": {"architecture": "MobileCLIP-B"},
            "distillation": distillation,
            "schedule": {"steps": 4, "batch_size": 4, "warmup_steps": 1},
            "run": {"path": str(folder)},
        }
    )
    RunFolder(job).claim({"data": f"digest of {shards}"})
    log = MetricsLog(folder, 0)
    for step in range(1, 5):
        log.step(StepMetrics(step, 4 * step, 5 / step, 1e-3, 14.0, step**-0.5, 20.0 + seed, 0.1, 0, {}, {}))
    log.evaluation(2, 8, {"imagenet acc1": 0.01})
    log.evaluation(4, 16, {"imagenet acc1": accuracy, "flickr text_to_image_r1": accuracy / 2})
    log.close()
    return str(folder)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Three runs of λ = 1 and two of λ = 0.5, in turn."""
    full = [leave_run(tmp_path / f"full_{seed}", value, seed) for seed, value in enumerate(ACCURACIES["full"])]
    half = [
        leave_run(tmp_path / f"half_{seed}", value, seed, weight=0.5) for seed, value in enumerate(ACCURACIES["half"])
    ]
    return [full[0], half[0], full[1], half[1], full[2]]


def test_seeds_of_a_configuration_are_one_row_of_mean_and_deviation(
    runs: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["compare", *runs, runs[0]]) == 0, "a folder that is named twice counts once"
    shown = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "distillation.weight=1.0 3 54.0 ± 4.6 27.0 ± 2.3" in shown
    assert "distillation.weight=0.5 2 40.5 ± 0.7 20.2 ± 0.4" in shown


def test_more_figures_than_configurations_are_rows(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", runs[0]]) == 0
    shown = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in shown if line[:1].isalpha()] == [
        "runs 1",
        "imagenet acc1 50.0",
        "flickr text_to_image_r1 25.0",
    ]


def test_machines_get_every_value(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *runs, "--json"]) == 0
    full, half = map(json.loads, capsys.readouterr().out.splitlines())
    assert full["figures"]["imagenet acc1"] == ACCURACIES["full"]
    assert full["deviations"]["imagenet acc1"] == pytest.approx(stdev(ACCURACIES["full"]))
    assert half["means"]["imagenet acc1"] == pytest.approx(0.405)
    assert (half["differs"], half["runs"]) == ({"distillation.weight": 0.5}, runs[1:4:2])


def test_a_page_has_every_configuration_in_every_chart(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["compare", *runs, "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    assert "54.0 ± 4.6" in out
    assert f"the page is in {page}" in err
    html = page.read_text()
    text = text_of(html)
    assert "figure distillation.weight=1.0 distillation.weight=0.5 runs 3 2" in text
    assert "imagenet acc1 54.0 ± 4.6 40.5 ± 0.7 flickr text_to_image_r1 27.0 ± 2.3 20.2 ± 0.4" in text
    assert "field configuration 1 configuration 2 distillation.weight 1.0 0.5" in text
    assert html.count("<circle") == 2 * len(runs), "a dot a run in the chart of each figure"
    (chart,) = re.findall(r'aria-label="imagenet acc1\. .*?</svg>\s*</svg>', html, re.DOTALL)
    assert re.findall(r'class="curve (s\d)"', chart) == ["s0", "s0", "s0", "s1", "s1"], "a colour a configuration"


def test_a_page_of_runs_of_one_configuration_says_so(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    folders = [leave_run(tmp_path / f"<b>{seed}", 0.5, seed) for seed in range(2)]
    assert main(["compare", *folders, "--html", str(page)]) == 0
    assert "All runs are of one configuration" in page.read_text()
    assert "<b>" not in page.read_text()


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", leave_run(tmp_path / "only", 0.5, 0), "--html", str(tmp_path / "no/page.html")]) == 2
    assert "no/page.html: the page cannot be written" in capsys.readouterr().err


def test_a_single_run_has_no_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["compare", leave_run(tmp_path / "only", 0.123, 0), "--html", str(page)]) == 0
    assert "They differ" not in page.read_text()
    shown = capsys.readouterr().out
    assert "only" in shown
    assert "12.3" in shown
    assert "±" not in shown


def test_other_data_are_another_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [leave_run(tmp_path / name, 0.5, 0, shards=name) for name in ("dfn", "datacomp")]
    assert main(["compare", *folders, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["differs"] for line in lines] == [{"data.shards": "dfn"}, {"data.shards": "datacomp"}]


def test_what_is_no_finished_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert "is no training run's folder" in capsys.readouterr().err
    folder = leave_run(tmp_path / "run", 0.5, 0)
    Path(folder, "log.jsonl").write_text("")
    assert main(["compare", folder]) == 2
    assert "has not been evaluated" in capsys.readouterr().err
