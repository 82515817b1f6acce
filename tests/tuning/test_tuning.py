"""Whole tunings of tiny runs: what they leave, that none is done twice, and what the chosen scales are written into."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dr_pipeline.cli import main
from dr_pipeline.config.training import TrainJob, TuneJob
from dr_pipeline.errors import ConfigError
from dr_pipeline.training.metrics import StepMetrics, read_metrics
from dr_pipeline.tuning.results import Trial, Tuning
from dr_pipeline.tuning.tune import tune
from tests.conftest import image_bytes, merged, write_tar
from tests.training.conftest import TORCHRUN, MakeJob

RUNS = [("one", "5"), ("one", "40"), ("two", "5"), ("two", "40")]


class Watcher:
    """A callback that keeps what was trained and, when asked to, kills the tuning in a run after a step."""

    def __init__(self, kill: tuple[str, int] | None = None):
        self.started_runs: list[tuple[str, int]] = []
        self._kill = kill

    def started(self, job: TrainJob, dataset: object, network: object, step: int) -> None:
        """Keep the run's name and where it stands."""
        self.started_runs.append((job.name, step))

    def stepped(self, record: StepMetrics) -> None:
        """Kill it here."""
        if self._kill and self._kill == (self.started_runs[-1][0], record.step):
            raise KeyboardInterrupt

    def evaluated(self, *_: object) -> None:
        """Not looked at."""


@pytest.fixture
def make_tune_job(make_train_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tuning job of two scales on a golden shard, measured on six images of noise; its file is tune.yaml."""
    monkeypatch.chdir(tmp_path)
    members = [(f"{i}.{ext}", data) for i in range(6) for ext, data in (("jpg", image_bytes(seed=i)), ("cls", b"1"))]
    task = {
        "name": "noise",
        "data": str(write_tar(tmp_path / "noise/0.tar", members)),
        "class_names": ["cat", "dog", "red cube"],
        "templates": ["a {}"],
    }
    train_job = make_train_job(evaluation={"classification": [task], "retrieval": []})
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/three.yaml").write_text("use: lab:Clip\n")
    (tmp_path / "jobs/train.yaml").write_text(yaml.safe_dump(train_job.model_dump(mode="json")))

    def make(**changes: Any) -> TuneJob:
        tree = {
            "name": "tiny",
            "train": "train.yaml",
            "overrides": ["schedule.steps=3", "run.checkpoint_every=2"],
            "logit_scales": [40, 5],
            "metric": "noise acc1",
            "path": "tuned",
        }
        tree = merged(tree, changes)
        (tmp_path / "jobs/tune.yaml").write_text(yaml.safe_dump(tree))
        return TuneJob.model_validate({**tree, "plugin_dirs": ["jobs"]})

    return make


def tuned(job: TuneJob, kill: tuple[str, int] | None = None) -> tuple[Tuning, list[tuple[str, int]]]:
    watcher = Watcher(kill)
    tuning = tune(job, watcher, lambda _: None)
    assert tuning is not None
    return tuning, watcher.started_runs


def test_a_tuning_leaves_a_table_a_drawing_and_figures(
    make_tune_job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tune_job()
    assert main(["tune-logit-scale", "jobs/tune.yaml"]) == 0
    out, error = capsys.readouterr()
    assert [word in out for word in ("logit scale", "noise acc1, per cent", "one", "two", " *")] == [True] * 5
    assert "two at 40" in error

    record = json.loads((tmp_path / "tuned/tuning.json").read_text())
    assert [(trial["teacher"], f"{trial['logit_scale']:g}") for trial in record["trials"]] == RUNS
    for trial in record["trials"]:
        log = read_metrics(tmp_path / f"tuned/{trial['teacher']}/{trial['logit_scale']:g}")
        assert trial["figure"] == log[-1]["noise acc1"]
        run = json.loads((tmp_path / f"tuned/{trial['teacher']}/{trial['logit_scale']:g}/job.json").read_text())
        assert run["distillation"]["teachers"] == [trial["teacher"]]
        assert run["distillation"]["logit_scales"] == [trial["logit_scale"]]
    assert (tmp_path / "tuned/tuning.png").read_bytes().startswith(b"\x89PNG")

    logs = {path: path.stat().st_mtime_ns for path in (tmp_path / "tuned").rglob("log.jsonl")}
    assert main(["tune-logit-scale", "jobs/tune.yaml", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"event": "tuned", **record}
    assert logs == {path: path.stat().st_mtime_ns for path in logs}
    assert len(logs) == 4


def test_a_killed_tuning_goes_on(make_tune_job: Any) -> None:
    whole, _ = tuned(make_tune_job(teachers=["two"]))
    job = make_tune_job(teachers=["two"], path="killed")
    with pytest.raises(KeyboardInterrupt):
        tuned(job, kill=("two at 40", 3))
    tuning, started = tuned(job)
    assert started == [("two at 40", 2)], "what ended is not done again, what was begun goes on"
    assert tuning.trials == whole.trials


def test_a_failed_run_leaves_the_others_and_writes_no_scale(
    make_tune_job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "two.yaml"
    card.write_text("use: lab:Clip\nlogit_scale: 9\n")
    make_tune_job(teachers=["two"], logit_scales=[5, 1e39], write_to=["two.yaml"])
    assert main(["tune-logit-scale", "jobs/tune.yaml"]) == 1
    out = capsys.readouterr().out
    assert "failed: two at 1.0e+39" in out
    assert "step 1: the loss is nan" in out
    good, bad = json.loads((tmp_path / "tuned/tuning.json").read_text())["trials"]
    assert good["figure"] is not None
    assert bad["figure"] is None
    assert "the loss is nan" in bad["failure"]
    assert (tmp_path / "tuned/tuning.png").exists()
    assert card.read_text() == "use: lab:Clip\nlogit_scale: 9\n"


def test_the_chosen_scales_are_written_into_cards_and_jobs(make_tune_job: Any, tmp_path: Path) -> None:
    (tmp_path / "jobs/two.yaml").write_text("# Mine.\nuse: lab:Clip\nlogit_scale: 9.5  # by hand\n")
    train = (tmp_path / "jobs/train.yaml").read_text()
    scaled = tmp_path / "scaled.yaml"
    scaled.write_text(train.replace("logit_scales: null", "logit_scales: [7, 2]  # tuned"))
    tuning, _ = tuned(make_tune_job(teachers=["two"], write_to=["two.yaml", "scaled.yaml"]))
    two = f"{tuning.best()['two']:g}"
    assert (tmp_path / "jobs/two.yaml").read_text() == f"# Mine.\nuse: lab:Clip\nlogit_scale: {two}  # by hand\n"
    assert scaled.read_text() == train.replace("logit_scales: null", f"logit_scales: [7, {two}]  # tuned")
    assert tuning.written == (str(tmp_path / "jobs/two.yaml"), str(scaled))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "trian.yaml"}, r"train: no file at trian\.yaml or jobs/trian\.yaml"),
        ({"overrides": ["schedule.step=3"]}, r"schedule\.step: unknown key; did you mean steps\?"),
        (
            {"metric": "noise ac1"},
            r"no figure 'noise ac1'; did you mean noise acc1\?; there are noise acc1, noise acc5",
        ),
        ({"overrides": ["evaluation={}"]}, r"there are none: give the training job an evaluation"),
        ({"teachers": ["one", "tow"]}, r"no teacher tow; did you mean two\?; there are one, two"),
        ({"overrides": ["distillation.weight=0"]}, "the training job does not distil"),
        ({"write_to": ["card.yaml"]}, r"write_to: no file at card\.yaml"),
        ({"write_to": ["three.yaml"]}, r"jobs/three\.yaml is about three, but tuned are one, two"),
        ({"path": "s3://bucket/tuned"}, "a run's folder is local"),
        ({"path": "runtime_resources/working_dir_files/_ray_pkg_1/tuned"}, "path: .* copy .* that Ray made"),
        ({"path": "jobs/train.yaml/tuned"}, r"path jobs/train\.yaml/tuned cannot be written"),
    ],
)
def test_what_cannot_be_tuned_is_told_at_once(
    make_tune_job: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tuned(make_tune_job(**changes))
    assert not (tmp_path / "tuned").exists()


def test_a_figure_that_the_data_do_not_give_is_told_with_those_they_do(make_tune_job: Any) -> None:
    with pytest.raises(ConfigError, match=r"no figure 'noise acc5'; did you mean noise acc1\?; there are noise acc1$"):
        tuned(make_tune_job(metric="noise acc5", teachers=["one"]))


def test_runs_of_another_training_or_evaluation_are_refused(make_tune_job: Any) -> None:
    short = ["schedule.steps=3"]
    job = make_tune_job(overrides=short, teachers=["one"])
    tuned(job)
    with pytest.raises(ConfigError, match=r"schedule\.learning_rate: 0\.001 → 0\.002"):
        tuned(make_tune_job(overrides=[*short, "schedule.learning_rate=2e-3"], teachers=["one"]))
    with pytest.raises(ConfigError, match=r"measured otherwise:\n  noise\.templates\.0: a \{\} → the \{\}"):
        tuned(make_tune_job(overrides=[*short, "evaluation.classification.0.templates.0=the {}"], teachers=["one"]))
    more = "evaluation.retrieval=[{name: other, data: nowhere}]"
    assert tuned(make_tune_job(overrides=[*short, more], teachers=["one"]))[1] == [], "a further task changes no figure"


def test_the_names_of_teachers_stay_in_their_folder(make_tune_job: Any, tmp_path: Path) -> None:
    tuned(make_tune_job(teachers=["../one"], overrides=["schedule.steps=2", "data.teachers.0.name=../one"]))
    assert (tmp_path / "tuned/%2E.%2Fone/40/log.jsonl").exists()


def test_a_best_scale_at_the_end_of_the_list_says_so() -> None:
    figures = {"low": (0.5, 0.4, 0.3), "middle": (0.1, 0.2, 0.2), "high": (0.1, 0.1, 0.2)}
    trials = [Trial(name, 10.0 * i, value, None) for name, row in figures.items() for i, value in enumerate(row, 1)]
    tuning = Tuning("acc1", tuple(trials))
    assert tuning.best() == {"low": 10, "middle": 20, "high": 30}
    low, middle, high = tuning.remarks()
    assert low == "low: logit scale 10, the smallest of the list: try smaller scales"
    assert middle == "middle: logit scale 20"
    assert high == "high: logit scale 30, the largest of the list: try larger scales"


@pytest.mark.slow
def test_torchrun_tunes_on_two_ranks(make_tune_job: Any, tmp_path: Path) -> None:
    make_tune_job(teachers=["two"])
    command = [*TORCHRUN, "-m", "dr_pipeline", "tune-logit-scale", "jobs/tune.yaml", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tuned = [line for line in done.stdout.splitlines() if '"event": "tuned"' in line]
    assert len(tuned) == 1, "one rank speaks"
    assert [trial["logit_scale"] for trial in json.loads(tuned[0])["trials"]] == [5, 40]
    assert (tmp_path / "tuned/two/40/checkpoints/step-0000003.pt").exists()
