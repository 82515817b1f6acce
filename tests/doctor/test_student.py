"""Jobs of the student are examined too: their data, what they are measured on, their models and their folder."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dr_pipeline.cli import main
from dr_pipeline.config.evaluation import EvaluateJob
from dr_pipeline.config.training import TrainJob, TuneJob
from dr_pipeline.doctor import examination
from dr_pipeline.doctor.examination import AnyJob, checks_for, run_check
from tests.conftest import image_bytes, write_tar
from tests.training.conftest import MakeJob


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A task of two images."""
    monkeypatch.chdir(tmp_path)
    members = [(f"{i}.{ext}", data) for i in range(2) for ext, data in (("jpg", image_bytes(seed=i)), ("cls", b"1"))]
    data = str(write_tar(tmp_path / "noise/0.tar", members))
    task = {"name": "noise", "data": data, "class_names": ["cat", "dog"], "templates": ["a {}"]}
    return {"classification": [task], "retrieval": []}


def found(job: AnyJob) -> dict[str, list[str]]:
    """What each check of a job's own finds, but for those of the machine."""
    own = {name: run_check(name, job) for name in checks_for(job) if name not in examination.MACHINE_CHECKS}
    return {name: [f"{one.state}: {one.fact}" for one in told] for name, told in own.items()}


def test_of_a_training_job_that_can_run(make_train_job: MakeJob, tasks: dict[str, Any]) -> None:
    told = found(make_train_job(evaluation=tasks))
    assert told["credentials"] == []
    assert told["data"][0].startswith("ok: 1 shard")
    assert told["data"][0].endswith(", and the first can be read")
    assert told["evaluation"] == ["ok: 1 task: noise"]
    assert all(line.startswith("ok: ") for lines in told.values() for line in lines)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("changes", "subject", "said"),
    [
        ({"data": {"shards": "nowhere"}}, "data", "fails: data.shards: no shard found at "),
        (
            {"evaluation": {"retrieval": [{"name": "a", "data": "nowhere"}]}},
            "evaluation",
            "tasks.retrieval.a.data: no ",
        ),
        ({"student": {"architecture": "ViT-B-23"}}, "models", "ViT-B-23"),
        ({"student": {"weights": "nowhere.pt"}}, "models", "fails: student: nowhere.pt cannot be had"),
        ({"run": {"path": "/proc/run"}}, "output", "cannot be written"),
        ({"run": {"path": "s3://lab/run"}}, "output", "a run's folder is local"),
        ({"distillation": {"teachers": ["nobody"]}}, "data", "nobody"),
    ],
    ids=str,
)
def test_what_a_training_job_lacks_is_told(
    changes: dict[str, Any], subject: str, said: str, make_train_job: MakeJob, tasks: dict[str, Any]
) -> None:
    told = found(make_train_job(**{"evaluation": tasks, **changes}))
    assert any(line.startswith("fails: ") and said in line for line in told[subject]), told


def test_the_hub_is_no_advice_for_a_file_that_is_not_on_it(make_train_job: MakeJob) -> None:
    (found,) = run_check("models", make_train_job(student={"weights": "nowhere.pt"}))
    assert "path" in found.advice
    assert "hf auth" not in found.advice


def test_of_an_evaluation_of_a_network_and_of_a_teacher(tasks: dict[str, Any]) -> None:
    job = {"name": "any", "tasks": tasks}
    network = {"architecture": "ViT-B-32", "weights": "nowhere.pt"}
    told = found(EvaluateJob.model_validate({**job, "model": network}))
    assert told["models"][0].startswith("fails: model: nowhere.pt cannot be had")
    card = {"name": "mine", "use": "nowhere:Clip"}
    told = found(EvaluateJob.model_validate({**job, "teacher": card}))
    assert told["models"][0].startswith("fails: mine: nowhere:Clip: no module nowhere")
    assert told["evaluation"] == ["ok: 1 task: noise"]
    assert "output" not in told


def test_of_a_tuning(make_train_job: MakeJob, tasks: dict[str, Any], tmp_path: Path) -> None:
    training: TrainJob = make_train_job(evaluation=tasks)
    Path("train.yaml").write_text(yaml.safe_dump(training.model_dump(mode="json")))
    tree = {"name": "tiny", "train": "train.yaml", "logit_scales": [5, 40], "metric": "noise acc1", "path": "tuned"}
    told = found(TuneJob.model_validate(tree))
    assert told["tuning"][0].startswith("ok: 4 runs, of ")
    assert told["output"] == [f"ok: {tmp_path} can be written"]
    told = found(TuneJob.model_validate({**tree, "metric": "noise acc2"}))
    assert "metric: no figure 'noise acc2'; did you mean noise acc" in told["tuning"][0]
    (output,) = found(TuneJob.model_validate({**tree, "path": "s3://lab/tuned"}))["output"]
    assert output.startswith("fails: ")
    assert "a run's folder is local" in output


def test_the_verb_takes_jobs_of_all_kinds_and_no_card(
    tasks: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(examination, "MACHINE_CHECKS", {"CPUs": "machine.cpus"})
    job = {"name": "any", "tasks": tasks, "model": {"architecture": "ViT-B-32", "weights": "nowhere.pt"}}
    Path("job.yaml").write_text(yaml.safe_dump(job))
    assert main(["doctor", "job.yaml"]) == 1
    assert "fails    models        model: nowhere.pt cannot be had" in capsys.readouterr().out
    Path("card.yaml").write_text("use: lab:Clip\n")
    assert main(["doctor", "card.yaml"]) == 2
    assert "use `dr-pipeline check-teacher card.yaml`" in capsys.readouterr().err
