"""about.json: what a run's folder tells people of the run."""

import json
from pathlib import Path

import pytest

from dr_pipeline.demo.held_out import write_held_out
from dr_pipeline.training.metrics import read_metrics
from dr_pipeline.training.record import read_record
from dr_pipeline.training.train import train
from tests.conftest import GOLDEN, make_sample_members, write_tar
from tests.tars import read_members
from tests.training.conftest import MakeJob


def test_a_run_tells_what_it_trains_on_what(make_train_job: MakeJob, tmp_path: Path) -> None:
    write_held_out(tmp_path / "held_out", 8)
    task = {"name": "scenes", "data": str(tmp_path / "held_out/retrieval/test"), "storage": {"key": "secret"}}
    job = make_train_job(evaluation={"retrieval": [task]}, distillation={"affinity": {"two": {"weight": 0.5}}})
    train(job, None)
    assert "secret" not in (tmp_path / "run/about.json").read_text()
    record = read_record(tmp_path / "run")
    assert (record["name"], record["last_step"]) == ("tiny", 6)
    assert record["student"].keys() == {"name", "parameters", "image_size"}
    assert record["data"] == {"num_shards": 1, "num_samples": None}
    assert record["teachers"] == [
        {"name": "one", "dim": 32, "logit_scale": 7.0},
        {"name": "two", "dim": 48, "logit_scale": 6.0, "affinity_weight": 0.5, "affinity_logit_scale": 6.0},
    ]
    del task["storage"]
    assert record["evaluation"] == {"classification": [], "retrieval": [task]}
    assert [start | {"time": 0} for start in record["starts"]] == [
        {"step": 0, "time": 0, "device": "CPU", "ranks": 1, "precision": "float32"}
    ]


def test_each_start_that_has_steps_to_take_is_recorded(make_train_job: MakeJob, tmp_path: Path) -> None:
    for stop_at in (2, None, None):
        train(make_train_job(schedule={"stop_at": stop_at}), None)
    starts = read_record(tmp_path / "run")["starts"]
    assert [start["step"] for start in starts] == [0, 2]
    assert starts[0]["time"] <= starts[1]["time"]


@pytest.mark.parametrize("content", [None, "", "[1]"])
def test_a_run_without_a_record_has_an_empty_one(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "about.json").write_text(content)
    assert read_record(tmp_path) == {}


def test_the_log_tells_why_samples_were_passed_over(make_train_job: MakeJob, tmp_path: Path) -> None:
    with (GOLDEN / "shards/v2_bf16.tar").open("rb") as file:
        members = [*read_members(file)]
    shard = write_tar(tmp_path / "x.tar", [*members, *make_sample_members("not_reinforced")])
    train(make_train_job(data={"shards": str(shard)}), None)
    last = read_metrics(tmp_path / "run")[-1]
    assert last["skipped"] > 0
    assert sum(last["skip_reasons"].values()) == last["skipped"]
    assert all(isinstance(reason, str) for reason in json.loads(json.dumps(last["skip_reasons"])))
