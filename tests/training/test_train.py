"""Whole runs: what they leave, and that a kill at any step changes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import open_clip
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from dr_pipeline.config.cards import CaptionerCard
from dr_pipeline.config.evaluation import Classification, EvaluatedModel, EvaluateJob, Tasks
from dr_pipeline.config.training import TrainJob
from dr_pipeline.demo.held_out import write_held_out
from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.models.load import load_captioner
from dr_pipeline.runners.evaluation import evaluate
from dr_pipeline.training import trainer
from dr_pipeline.training.data.rendering import DeviceViews
from dr_pipeline.training.metrics import StepMetrics, read_metrics
from dr_pipeline.training.train import train
from tests.conftest import GOLDEN, write_tar
from tests.tars import read_members
from tests.training.conftest import CLIP, COCA, CONVOLUTIONAL, TORCHRUN, WORDS, MakeJob
from tests.waiting import wait_until

MODEL = "model/open_clip_model.safetensors"


class Watcher:
    """A callback that keeps the steps and, when asked to, kills the run after one."""

    def __init__(self, killed_after: int | None = None):
        self.records: list[StepMetrics] = []
        self._killed_after = killed_after

    def started(self, *_: object) -> None:
        """The run begins."""

    def stepped(self, record: StepMetrics) -> None:
        """Keep it."""
        self.records.append(record)
        if record.step == self._killed_after:
            raise KeyboardInterrupt

    def evaluated(self, *_: object) -> None:
        """Not looked at."""

    @property
    def losses(self) -> list[float]:
        return [record.loss for record in self.records]


def trained(job: TrainJob) -> Watcher:
    watcher = Watcher()
    train(job, watcher)
    return watcher


def curve(folder: Path) -> list[tuple[int, float]]:
    return [(record["step"], record["loss"]) for record in read_metrics(folder) if record["event"] == "step"]


def elsewhere(job: TrainJob, folder: Path) -> TrainJob:
    return job.model_copy(update={"run": job.run.model_copy(update={"path": str(folder)})})


@pytest.mark.parametrize("shard", ["v1_fp32", "v1_bf16", "v2_bf16"])
def test_golden_shards_train(make_train_job: MakeJob, shard: str) -> None:
    job = make_train_job(
        data={"shards": str(GOLDEN / f"shards/{shard}.tar"), "view": "sequential"},
        schedule={"steps": 25, "batch_size": 8, "learning_rate": 1e-2},
    )
    losses = trained(job).losses
    assert losses[-1] < 0.8 * losses[0]


def test_a_student_learns_the_same_from_views_that_the_device_renders(
    make_train_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_train_job(schedule={"steps": 4}, data={"workers": 2})
    trained(job)
    monkeypatch.setattr(trainer, "views_for", lambda job, recipe, size, device: DeviceViews(recipe, size))
    trained(elsewhere(job, tmp_path / "device"))
    assert curve(tmp_path / "device") == curve(tmp_path / "run")
    assert (tmp_path / "device" / MODEL).read_bytes() == (tmp_path / "run" / MODEL).read_bytes()


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        (CLIP, {}),
        (CLIP, {"data": {"workers": 2, "shuffle_buffer": 3}}),
        (CONVOLUTIONAL, {"schedule": {"ema_decay": 0.9}}),
        (COCA, {"objective": "coca", "schedule": {"accumulation": 2}}),
    ],
    ids=["clip", "workers", "average", "coca"],
)
def test_a_killed_run_goes_on_bit_for_bit(
    make_train_job: MakeJob, tmp_path: Path, network: dict[str, Any], changes: dict[str, Any]
) -> None:
    job = make_train_job(network, **changes)
    trained(job)
    killed = elsewhere(job, tmp_path / "killed")
    for step in (2, 5):  # before and after the checkpoint of step 4
        with pytest.raises(KeyboardInterrupt):
            train(killed, Watcher(killed_after=step))
    trained(killed)
    assert curve(tmp_path / "killed") == curve(tmp_path / "run")
    assert (tmp_path / "killed" / MODEL).read_bytes() == (tmp_path / "run" / MODEL).read_bytes()


def test_a_run_that_stops_early_is_evaluated_and_exported_and_goes_on(make_train_job: MakeJob, tmp_path: Path) -> None:
    write_held_out(tmp_path / "held_out", 8)
    tasks = {"classification": [{"name": "scenes", "data": str(tmp_path / "held_out/classification/test")}]}
    job = make_train_job(schedule={"ema_decay": 0.9})
    trained(job)
    changes = {"schedule": {"ema_decay": 0.9, "stop_at": 3}, "run": {"path": str(tmp_path / "early")}}
    early = make_train_job(evaluation=tasks, **changes)
    outcome = train(early, Watcher())
    assert outcome is not None
    assert [result.task for result in outcome.results] == ["scenes"]
    assert curve(tmp_path / "early") == curve(tmp_path / "run")[:3]
    assert [record["step"] for record in read_metrics(tmp_path / "early") if record["event"] == "evaluation"] == [3]
    assert [path.name for path in (tmp_path / "early/checkpoints").iterdir()] == ["step-0000003.pt"]
    assert (tmp_path / "early" / MODEL).read_bytes() != (tmp_path / "run" / MODEL).read_bytes()
    trained(elsewhere(job, tmp_path / "early"))
    assert (tmp_path / "early" / MODEL).read_bytes() == (tmp_path / "run" / MODEL).read_bytes()
    with pytest.raises(ConfigError, match=r"schedule\.stop_at is 3, but the run in run\.path has gone on to step 6"):
        trained(early)


def command(job: TrainJob, folder: Path) -> list[str]:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    return [sys.executable, "-m", "dr_pipeline", "train", str(path)]


@pytest.mark.slow
def test_a_run_survives_sigkill(make_train_job: MakeJob, tmp_path: Path) -> None:
    job = make_train_job(schedule={"steps": 60}, run={"checkpoint_every": 5}, data={"workers": 1})
    # In a process of its own too: sums depend on the number of threads, which other tests set in this one.
    subprocess.run(command(job, tmp_path), check=True, capture_output=True)
    killed = elsewhere(job, tmp_path / "killed")
    process = subprocess.Popen(command(killed, tmp_path), start_new_session=True, stderr=subprocess.PIPE)
    wait_until(lambda: len(curve(tmp_path / "killed")) >= 12)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / MODEL).exists()
    done = subprocess.run(command(killed, tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stderr
    assert curve(tmp_path / "killed") == curve(tmp_path / "run")


def is_alive(process: psutil.Process) -> bool:
    """A zombie is not: what has lost its parent may be reaped by nobody."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_a_killed_trainer_leaves_no_process_behind(make_train_job: MakeJob, tmp_path: Path) -> None:
    job = make_train_job(schedule={"steps": 100_000}, data={"workers": 2})
    process = subprocess.Popen(command(job, tmp_path), stderr=subprocess.DEVNULL)
    wait_until(lambda: len(curve(tmp_path / "run")) >= 1)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 3, "the fork server and two loaders"
    process.kill()
    process.wait()
    wait_until(lambda: not any(is_alive(one) for one in started))


@pytest.mark.slow
def test_torchrun_trains_on_two_ranks(make_train_job: MakeJob, tmp_path: Path) -> None:
    job = make_train_job(data={"workers": 1}, run={"checkpoint_every": 2})
    both = [*TORCHRUN, *command(job, tmp_path)[1:]]
    runs = [subprocess.run(both, capture_output=True, text=True) for _ in range(2)]
    assert [done.returncode for done in runs] == [0, 0], runs[0].stderr
    assert runs[0].stderr.count("step 6 of 6") == 1, "one rank speaks"
    assert "going on after step 6" in runs[1].stderr
    assert [step for step, _ in curve(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    alone = subprocess.run(command(job, tmp_path), capture_output=True, text=True)
    assert alone.returncode == 2
    assert "the checkpoint is of 2 ranks, now there are 1" in alone.stderr


def test_a_run_leaves_a_model_a_log_and_curves(make_train_job: MakeJob, tmp_path: Path) -> None:
    outcome = train(make_train_job(), Watcher())
    folder = tmp_path / "run"
    assert outcome is not None
    assert outcome.curves.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-0000004.pt", "step-0000006.pt"]
    assert list((folder / "tensorboard").iterdir())
    plain = (folder / "log.jsonl").stat().st_mode
    assert {path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode != plain} == set()
    records = read_metrics(folder)
    assert [record["samples"] for record in records] == [4, 8, 12, 16, 20, 24]
    assert all(record["samples_per_second"] > 0 and 0 <= record["wait_fraction"] <= 1 for record in records)


def test_plain_open_clip_loads_the_model(make_train_job: MakeJob, tmp_path: Path) -> None:
    train(make_train_job(CONVOLUTIONAL), Watcher())
    state = load_file(tmp_path / "run" / MODEL)

    folder, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'run/model'}")
    assert all(torch.equal(value, state[name]) for name, value in folder.state_dict().items())
    assert preprocess.transforms[0].size == 32

    (tmp_path / "tiny_student.json").write_text(json.dumps(CONVOLUTIONAL))
    open_clip.add_model_config(tmp_path / "tiny_student.json")
    named, _, _ = open_clip.create_model_and_transforms("tiny_student", pretrained=str(tmp_path / "run" / MODEL))
    assert all(torch.equal(value, state[name]) for name, value in named.state_dict().items())


@pytest.mark.slow
def test_an_architecture_of_open_clip_trains_and_goes_home(make_train_job: MakeJob, tmp_path: Path) -> None:
    student = {"architecture": "MobileCLIP2-S0", "tokenizer": None}
    job = make_train_job(student=student, schedule={"steps": 2, "batch_size": 2, "ema_decay": 0.9995})
    train(job, Watcher())
    model, _, _ = open_clip.create_model_and_transforms("MobileCLIP2-S0", pretrained=str(tmp_path / "run" / MODEL))
    state = load_file(tmp_path / "run" / MODEL)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_training_starts_from_a_checkpoint(make_train_job: MakeJob, tmp_path: Path) -> None:
    train(make_train_job(), Watcher())
    path = str(tmp_path / "run" / MODEL)
    still = {"steps": 1, "warmup_steps": 0, "learning_rate": 1e-12, "min_learning_rate": 0}
    train(make_train_job(student={"weights": path}, schedule=still, run={"path": str(tmp_path / "next")}), Watcher())
    before, after = load_file(path), load_file(tmp_path / "next" / MODEL)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-7) for name in before), "logit scale included"


def test_another_architectures_checkpoint_is_refused(make_train_job: MakeJob, tmp_path: Path) -> None:
    train(make_train_job(CONVOLUTIONAL), Watcher())
    weights = {"weights": str(tmp_path / "run" / MODEL)}
    with pytest.raises(PipelineError, match=r"architecture\.json, weights: .*is a checkpoint of another model"):
        train(make_train_job(CLIP, student=weights, run={"path": str(tmp_path / "next")}), Watcher())
    assert not (tmp_path / "next").exists()


def test_another_jobs_folder_is_refused(make_train_job: MakeJob, tmp_path: Path) -> None:
    train(make_train_job(), Watcher())
    kept = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"schedule\.learning_rate: 0\.001 → 0\.002\n.*Choose another folder"):
        train(make_train_job(schedule={"learning_rate": 2e-3}), Watcher())
    with pytest.raises(ConfigError, match=r"contents\.model: \w+ → \w+"):
        train(make_train_job(CONVOLUTIONAL), Watcher())  # the same file name with another content
    assert kept == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_folder_that_ray_removes_after_the_job_is_refused(make_train_job: MakeJob, tmp_path: Path) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    with pytest.raises(ConfigError, match=r"run\.path: .* copy .* that Ray made"):
        train(make_train_job(run={"path": str(copy / "run")}), Watcher())
    assert not copy.exists()


def test_other_data_or_weights_at_the_same_paths_are_refused(make_train_job: MakeJob, tmp_path: Path) -> None:
    shard = Path(shutil.copy(GOLDEN / "shards/v2_bf16.tar", tmp_path / "x.tar"))
    start = make_train_job(schedule={"steps": 1, "warmup_steps": 0}, run={"path": str(tmp_path / "start")})
    trained(start)
    weights = Path(shutil.copy(tmp_path / "start" / MODEL, tmp_path / "start.safetensors"))
    changes = {"data": {"shards": str(shard)}, "student": {"weights": str(weights)}}
    trained(make_train_job(schedule={"steps": 2}, **changes))
    assert trained(make_train_job(schedule={"steps": 2}, **changes)).records == []
    tensors = load_file(weights)
    save_file({name: tensor * 0.5 for name, tensor in tensors.items()}, weights)
    with pytest.raises(ConfigError, match=r"on other data or weights:\n  contents\.weights: \w{64} → \w{64}\n"):
        trained(make_train_job(schedule={"steps": 2}, **changes))
    shutil.copy(tmp_path / "start" / MODEL, weights)
    with shard.open("rb") as file:
        members = list(read_members(file))
    write_tar(shard, [*members, ("more.txt", b"a sample that was not there")])
    with pytest.raises(ConfigError, match=r"  contents\.data: \w{64} → \w{64}\n"):
        trained(make_train_job(schedule={"steps": 2}, **changes))


def test_a_digest_that_was_not_known_is_recorded(make_train_job: MakeJob, tmp_path: Path) -> None:
    job = make_train_job(schedule={"steps": 2})
    trained(job)
    record = json.loads((tmp_path / "run/job.json").read_text())
    digests = record["contents"]
    assert digests.keys() == {"data", "model"}
    record["contents"] = {"data": digests["data"]}
    (tmp_path / "run/job.json").write_text(json.dumps(record))
    trained(job)
    assert json.loads((tmp_path / "run/job.json").read_text())["contents"] == digests


@pytest.mark.parametrize("place", ["", "runs/first"])
def test_a_run_inside_a_dataset_is_refused(make_train_job: MakeJob, tmp_path: Path, place: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/config.json").write_text('{"reinforce": {}}')
    with pytest.raises(ConfigError, match=f"run.path {tmp_path}/data.* lies in the dataset {tmp_path}/data: choose"):
        trained(make_train_job(run={"path": str(tmp_path / "data" / place)}))


@pytest.mark.parametrize(("checkpoint_every", "kept"), [(1, ["step-0000001.pt"]), (4, [])])
def test_a_loss_that_is_not_finite_stops_the_run(
    make_train_job: MakeJob, tmp_path: Path, checkpoint_every: int, kept: list[str]
) -> None:
    changes = {"learning_rate": 1e30, "warmup_steps": 5}
    job = make_train_job(schedule=changes, run={"checkpoint_every": checkpoint_every})
    with pytest.raises(PipelineError, match=r"step 2: the loss is \S+, its .*checkpoint is kept"):
        train(job, Watcher())
    assert [path.name for path in tmp_path.glob("run/checkpoints/*.pt")] == kept
    for path in tmp_path.glob("run/checkpoints/*.pt"):
        assert all(values.isfinite().all() for values in torch.load(path, weights_only=True)["network"].values())
    assert not (tmp_path / "run/model").exists()


def test_a_trained_captioner_is_a_captioner(make_train_job: MakeJob, tmp_path: Path) -> None:
    losses = trained(make_train_job(COCA, objective="coca", schedule={"steps": 25, "learning_rate": 1e-2})).losses
    assert losses[-1] < losses[0] / 2
    model = tmp_path / "run/model"
    card = CaptionerCard(
        name="mine",
        use="dr_pipeline.models.coca:CocaCaptioner",
        options={
            "model": str(model / "open_clip_config.json"),
            "weights": str(tmp_path / "run" / MODEL),
            "tokenizer": WORDS,
        },
    )
    load_captioner(card, torch.device("cpu"))


def test_a_tokenizer_in_a_plain_file(make_train_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    lines = ["from dr_pipeline.demo.tokenizer import WordTokenizer", "class Words(WordTokenizer):", "    pass"]
    (tmp_path / "lab_words.py").write_text("\n".join(lines))
    job = make_train_job(student={"tokenizer": "lab_words:Words"}, data={"workers": 1})
    trained(job.model_copy(update={"plugin_dirs": (str(tmp_path),)}))


def test_the_student_is_measured_on_the_way(make_train_job: MakeJob, tmp_path: Path) -> None:
    write_held_out(tmp_path / "held_out", 24)
    task = {"name": "scenes", "data": str(tmp_path / "held_out/classification/test")}
    job = make_train_job(evaluation={"every": 2, "classification": [task]}, schedule={"ema_decay": 0.9})
    with pytest.raises(KeyboardInterrupt):
        train(job, Watcher(killed_after=5))
    outcome = train(job, Watcher())
    assert outcome is not None
    records = [record for record in read_metrics(tmp_path / "run") if record["event"] == "evaluation"]
    assert [(record["step"], record["samples"]) for record in records] == [(2, 8), (4, 16), (6, 24)]
    model = EvaluatedModel(
        architecture=str(tmp_path / "run/model/open_clip_config.json"),
        weights=str(tmp_path / "run" / MODEL),
        tokenizer=WORDS,
    )
    (again,) = evaluate(EvaluateJob(name="again", model=model, tasks=Tasks(classification=(Classification(**task),))))
    assert outcome.results[0].figures == again.figures == {key: records[-1][f"scenes {key}"] for key in again.figures}


def test_evaluation_data_that_are_not_there_are_missed_at_once(make_train_job: MakeJob, tmp_path: Path) -> None:
    task = {"name": "scenes", "data": str(tmp_path / "nowhere")}
    for kind in ("classification", "retrieval"):
        with pytest.raises(ConfigError, match=rf"{kind}\.scenes\.data.*nowhere"):
            train(make_train_job(evaluation={kind: [task]}), Watcher())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("network", "objective"), [(COCA, "clip"), (CLIP, "coca")])
def test_an_objective_has_its_architectures(make_train_job: MakeJob, network: dict[str, Any], objective: str) -> None:
    with pytest.raises(ConfigError, match=f"objective {objective}: .* name another architecture"):
        train(make_train_job(network, objective=objective), Watcher())
