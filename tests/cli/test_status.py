"""`status` tells how far a run is, from another process, by what is stored alone."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dr_pipeline.dataset.paths import RUN
from dr_pipeline.dataset.plan import Plan
from dr_pipeline.reinforce.tally import WorkersProgress
from dr_pipeline.report.recorder import Recorder
from dr_pipeline.report.training_status import training_status
from dr_pipeline.storage import Lease, Storage
from tests.cli.conftest import PLUGIN, call, write_job
from tests.conftest import make_job, write_tar
from tests.report.test_tuning_page import leave_tuning
from tests.waiting import wait_until

SLOW = (
    PLUGIN
    + """
import time
from pathlib import Path

class Slow(Coca):
    def caption(self, images_BCHW, streams, sampling):
        Path("begun").touch()
        while not Path("go on").exists():
            time.sleep(0.02)
        return super().caption(images_BCHW, streams, sampling)
"""
)


def told(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """What `status` prints, and that it ends with this code."""
    capsys.readouterr()
    assert call("status", *arguments) == code
    return capsys.readouterr().out


def test_a_run_tells_how_far_it_is_before_its_first_shard_is_whole_and_when_it_is_killed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("slow_lab.py").write_text(SLOW)
    write_job(captioners=[{"name": "coca", "use": "slow_lab:Slow", "num_captions": 2}])
    with Path("log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "dr_pipeline", "run", "job.yaml"], stderr=log)
    try:
        wait_until(Path("begun").exists)
        wait_until(lambda: b" samples read" in Path("log").read_bytes())
        assert not [*Path("out").rglob("reports/*/*.json")]
        assert not set(b"\x1b\r") & set(Path("log").read_bytes())
        wait_until(lambda: json.loads((folder / "out" / RUN).read_bytes())["progress"])
        running = told(capsys, 0, "out")
        assert f"out: running since 20{time.gmtime().tm_year % 100}" in running
        assert f"process {process.pid} on " in running
        assert "\n0 of 2 shards" in running
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    gone = told(capsys, 1, "out")
    assert f"out: its run is gone: process {process.pid} on " in gone
    assert "safe: 0 shards: run the job again to go on" in gone
    assert json.loads(told(capsys, 1, "out", "--json"))["state"] == "gone"


def test_of_a_dataset_that_is_finished_or_was_never_begun(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "out: never run: no run has written here" in told(capsys, 1, "out")
    write_tar(folder / "in" / "2.tar", [])
    assert call("run", "job.yaml") == 0
    finished = told(capsys, 0, "out")
    assert "out: finished: 3 of 3 shards, 8 samples, " in finished
    assert "device busy " in finished
    next(folder.glob("out/reports/*/0.json")).rename(folder / "report")
    assert "out: stopped before its end, with 2 shards done: run the job again" in told(capsys, 1, "out")


def test_of_a_tuning_its_runs_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuning = leave_tuning(folder / "tuned")
    assert call("status", str(tuning)) == 2
    first = min(str(file.parent) for file in tuning.rglob("job.json"))
    assert f"has training runs in it: name one, such as {first}" in capsys.readouterr().err


def test_failed_shards_and_those_of_another_configuration_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "job.yaml") == 0
    (ours,) = (folder / "out" / "reports").iterdir()
    shutil.copytree(ours, ours.with_name("0123456789abcdef"))
    (folder / "in" / "2.tar").write_bytes(b"no tar\x1b[31m")
    assert call("run", "job.yaml") == 1
    shown = told(capsys, 1, "out")
    assert "out: finished: 2 of 3 shards, 8 samples, " in shown
    assert "1 shard failed: run the job again to try them once more" in shown
    assert "\nfailed 2.tar: " in shown
    assert "another configuration, 01234567, has made 2 shards here" in shown


def test_a_run_on_another_machine_is_taken_for_gone_once_it_is_silent(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dr_pipeline.storage.lease.RENEWAL_S", 0.6)
    (folder / "out").mkdir()
    record = {"run": "a", "host": "\x1b[31mnode7, boot 1", "pid": 12, "began": "1", "renewed_at": time.time() - 20}
    (folder / "out" / RUN).write_text(json.dumps(record))
    assert "out: running, process 12 on \\x1b[31mnode7, last heard of 0:00:" in told(capsys, 0, "out")
    record["renewed_at"], record["progress"] = time.time() - 600, {"num_done": "many"}
    (folder / "out" / RUN).write_text(json.dumps(record))
    assert "its run is gone: process 12 on \\x1b[31mnode7 was killed, last heard of 0:10:" in told(capsys, 1, "out")
    (folder / "out" / RUN).write_text("{")
    assert "its run is gone: process None on an unknown machine" in told(capsys, 1, "out")


def test_the_first_note_does_not_wait_for_a_renewal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dr_pipeline.storage.lease.RENEWAL_S", 3600.0)
    with Lease(str(folder / "out"), RUN, Storage()).held() as lease:
        lease.note({"num_done": 3})
        wait_until(lambda: json.loads((folder / "out" / RUN).read_bytes())["progress"])


STEP = {"event": "step", "step": 5, "samples": 80, "loss": 1.25, "samples_per_second": 8.0, "learning_rate": 0.1}


def test_of_a_training_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    job = {"schedule": {"steps": 20}, "student": {"architecture": "a"}, "data": {"shards": "d"}, "contents": {}}
    (run / "job.json").write_text(json.dumps(job))
    assert "run, step 0 of 20: it does not move, no log yet" in told(capsys, 1, "run")
    (run / "log.jsonl").write_text(
        "\n".join(map(json.dumps, [STEP, {"event": "evaluation", "step": 5, "samples": 80, "scenes acc1": 0.5}]))
    )
    (run / "checkpoints" / "step-0000005.pt").touch()
    shown = told(capsys, 0, "run")
    assert "run, step 5 of 20: running, its log grew 0:00:" in shown
    assert "loss 1.250, 8 samples/s, 0:00:30 left" in shown
    assert "evaluated after step 5: scenes acc1 50.0%" in shown
    assert "last checkpoint: step-0000005.pt" in shown
    os.utime(run / "log.jsonl", (1.0, 1.0))
    assert training_status(run).state == "silent"
    assert json.loads(told(capsys, 1, "run", "--json"))["step"] == 5


@pytest.mark.parametrize(
    "damage",
    [
        *({name: value} for name in ("started_at", "renewed_at") for value in (1e30, -1e30, math.nan, 10**400)),
        {"progress": {"seconds_left": 1e30}},
        {"progress": {"seconds_left": math.nan}},
        {"progress": {"samples_per_second": math.inf}},
        {"progress": {"usage": {"lab": 3}}},
        {"pid": "a\0b"},
    ],
    ids=lambda damage: str(damage)[:40],
)
def test_a_damaged_record_of_a_run_ends_no_status(
    damage: dict, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Lease(str(folder / "out"), RUN, Storage()).held():
        record = json.loads((folder / "out" / RUN).read_bytes())
        snapshot = Recorder(Plan(make_job(), (), ())).take(WorkersProgress()).to_tree()
        progress = {**snapshot, **damage.get("progress", {})}
        (folder / "out" / RUN).write_text(json.dumps({**record, **damage, "progress": progress}))
        shown = told(capsys, 1 if "pid" in damage else 0, "out")
    assert "out: running" in shown or "out: its run is gone" in shown
    assert not {"nan", "inf"} & set(shown.split())


def test_a_record_of_endless_brackets_is_a_damaged_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out").mkdir()
    (folder / "out" / RUN).write_text("[" * 100_000)
    assert "its run is gone: process None on an unknown machine" in told(capsys, 1, "out")


@pytest.mark.parametrize(("seconds", "differ"), [(300, "ahead of"), (-300, "behind")])
def test_a_run_on_a_machine_with_another_clock_is_judged_by_its_renewals(
    seconds: float, differ: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dr_pipeline.storage.lease.RENEWAL_S", 1.0)
    (folder / "out").mkdir()
    there = {"run": "a", "host": "node7, boot 1", "pid": 12, "began": "1"}

    def renew(storage: Storage, uri: str) -> bytes:
        (folder / "out" / RUN).write_text(json.dumps({**there, "renewed_at": time.time() + seconds}))
        return read(storage, uri)

    read = Storage.read
    with monkeypatch.context() as living:
        living.setattr(Storage, "read", renew)
        shown = told(capsys, 0, "out")
    assert "out: running, process 12 on node7, heard of just now; its clock is 0:0" in shown
    assert f" {differ} this machine's; it has not told yet" in shown
    assert "its run is gone: process 12 on node7 was killed, last heard of " in told(capsys, 1, "out")


def test_a_run_that_ends_while_it_is_watched_was_not_killed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "out").mkdir()
    record = {"run": "a", "host": "node7, boot 1", "pid": 12, "began": "1", "renewed_at": time.time() - 300}
    (folder / "out" / RUN).write_text(json.dumps(record))
    monkeypatch.setattr("dr_pipeline.storage.lease.time.sleep", lambda seconds: (folder / "out" / RUN).unlink())
    assert "never run" in told(capsys, 1, "out")
