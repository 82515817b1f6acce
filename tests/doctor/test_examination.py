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
from dr_pipeline.doctor.examination import CHECKS, examine
from tests.conftest import make_job
from tests.demo_job import QUICKSTART, REPOSITORY, make_scenes
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
    words = ["doctor", str(QUICKSTART), f"input.shards={tmp_path}/nowhere", "output.path=/proc/out", "--json"]
    command = [sys.executable, "-S", "-m", "dr_pipeline", *words]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "")
    told = json.loads(ran.stdout)
    failing = [found["subject"] for found in told["found"] if found["state"] == "fails"]
    assert {"packages", "native parts", "workers", "input", "output"} <= {*failing}
    assert told["fails"] == len(failing)
    facts = {found["subject"]: found for found in told["found"]}
    assert facts["packages"]["fact"] == "simplejpeg is not installed"
    assert facts["packages"]["advice"] == "pip install 'simplejpeg>=1.7'"


def test_a_check_that_hangs_or_crashes_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text("import os\nos._exit(3)\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        storage = {"endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}", "anon": True}
        job = make_job(
            input={"shards": "s3://lab/in", "storage": storage},
            teachers=[{"name": "crash", "use": "crashing:Clip"}],
            plugin_dirs=(str(tmp_path),),
            workers={"engine": "local"},
        )
        found = [(subject, diagnosis.fact) for subject, diagnosis in examine(job, time_limit_seconds=5)]
    assert ("input", "no answer within 5 s") in found
    assert any(subject == "models" and "ended" in fact for subject, fact in found)


@pytest.mark.ray
@pytest.mark.slow
def test_a_machine_that_lacks_nothing_is_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = make_scenes(tmp_path / "scenes", num_shards=1, samples_per_shard=1)
    assert main(["doctor", str(QUICKSTART), f"input.shards={scenes}", f"output.path={tmp_path}/out"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "ready"
    assert {line[9:22].strip() for line in told[:-2]} >= {*CHECKS} - {"credentials", "endpoints"}
    assert not (tmp_path / "out").exists()
