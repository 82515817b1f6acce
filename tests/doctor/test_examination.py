"""The verb on machines that are really broken: it tells all of it, in time, and by its exit code."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from dr_pipeline.cli import main
from dr_pipeline.config.job import Job
from dr_pipeline.doctor import examination
from tests.conftest import make_job
from tests.demo_job import QUICKSTART, REPOSITORY
from tests.ports import free_port


@pytest.fixture
def without_simplejpeg(tmp_path: Path) -> Path:
    """The installed packages but one."""
    links = tmp_path / "site-packages"
    links.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith("simplejpeg"):
            (links / path.name).symlink_to(path)
    return links


@pytest.mark.ray
@pytest.mark.slow
def test_all_that_is_broken_is_told_in_one_go(without_simplejpeg: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{without_simplejpeg}"}
    environment["RAY_ADDRESS"] = f"127.0.0.1:{free_port()}"
    words = ["doctor", str(QUICKSTART), f"input.shards={tmp_path}/nowhere", "output.path=/proc/out"]
    command = [sys.executable, "-S", "-m", "dr_pipeline", *words]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "")
    told = ran.stdout.splitlines()
    failing = {line[9:22].strip() for line in told if line.startswith("fails")}
    assert {"packages", "native parts", "workers", "input", "output"} <= failing
    at = told.index("fails    packages      simplejpeg is not installed")
    assert told[at + 1].strip() == "→ pip install 'simplejpeg>=1.7'"
    assert told[-1].endswith("this job will not work here before they are mended")


def test_a_check_that_hangs_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "MACHINE_CHECKS", {})
    monkeypatch.setitem(examination.CHECKS_BY_KIND, Job, {"input": "places.job_input", "output": "places.job_output"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        storage = {"endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}", "anon": True}
        job = make_job(input={"shards": "s3://lab/in", "storage": storage})
        (subject, found), *others = examination.examine(job, time_limit_seconds=5)
    assert (subject, found.fact) == ("input", "no answer within 5 s")
    assert "endpoint can be reached" in found.advice
    assert [subject for subject, _ in others] == ["output"]


def test_a_check_that_crashes_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashing.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.setattr(examination, "MACHINE_CHECKS", {"open files": "machine.open_files"})
    monkeypatch.setitem(examination.CHECKS_BY_KIND, Job, {"models": "models.models", "endpoints": "models.endpoints"})
    crashing = {"teachers": [{"name": "crash", "use": "crashing:Clip"}], "captioners": []}
    job = make_job(**crashing, plugin_dirs=(str(tmp_path),))
    found = [(subject, diagnosis.fact) for subject, diagnosis in examination.examine(job)]
    assert found[0][0] == "open files"
    assert ("models", "its libraries ended the process that looked") in found
    assert found[-1][0] in ("models", "endpoints")


def test_one_json_object_has_every_diagnosis(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(examination, "MACHINE_CHECKS", {"Python": "packages.python", "CPUs": "machine.cpus"})
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["subject"], one["state"]) for one in told["found"]] == [("Python", "ok"), ("CPUs", "ok")]
    assert told["fails"] == 0
