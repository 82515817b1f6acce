"""The scripts of Slurm and SkyPilot, run as they stand: only ports and folders are others, for machines are shared.

Of Slurm there are two stand-ins: `srun`, which runs its command once for each node of the allocation, and `scontrol`,
which notes what it is asked for.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dr_pipeline.storage import Storage
from dr_pipeline.verification.verify import verify
from tests.demo_job import make_scenes
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parent.parent.parent
CLUSTERS = ROOT / "examples/clusters"
SMALL = ["augmentation.num_views=2", "captioners.0.num_captions=1"]
SRUN = """#!/bin/bash
trap 'kill $(jobs -p); wait' TERM
for node in 0 1; do SLURM_NODEID=$node "$@" & done
wait
"""
SCONTROL = """#!/bin/bash
echo "$@" > "$0.asked"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the scripts find: an environment in `.venv`, jobs and scenes, and the stand-ins on the PATH."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    path = f"{tmp_path}/bin:{Path(sys.executable).parent}:$PATH"
    (tmp_path / ".venv/bin/activate").write_text(f'export PATH="{path}" PYTHONPATH="{ROOT}"\n')
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    make_scenes(tmp_path / "scenes", num_shards=3, samples_per_shard=3)
    return tmp_path


@pytest.fixture
def ray_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


def start(script: str, words: list[str], folder: Path, **settings: str) -> subprocess.Popen:
    """Run a script by bash, on other ports."""
    text = script.replace("6379", str(free_port())).replace("20001", str(free_port()))
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_TMPDIR")}
    command = ["bash", "-c", text, "script", *words]
    return subprocess.Popen(command, cwd=folder, env={**environment, **settings}, stdout=subprocess.PIPE, text=True)


def start_slurm(checkout: Path, ray_folder: str) -> subprocess.Popen:
    script = (CLUSTERS / "slurm.sh").read_text().replace("/tmp/ray-$SLURM_JOB_ID", ray_folder)
    words = ["jobs/quickstart.yaml", f"input.shards={checkout}/scenes", f"output.path={checkout}/out", *SMALL]
    slurm = {"SLURM_SUBMIT_DIR": str(checkout), "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1"}
    return start(script, words, checkout, **slurm)


@pytest.mark.slow
def test_a_slurm_job_stops_before_its_time_limit_is_queued_again_and_resumes(checkout: Path, ray_folder: str) -> None:
    first = start_slurm(checkout, ray_folder)
    wait_until(lambda: first.poll() is not None or (checkout / "out/config.json").exists())
    first.send_signal(signal.SIGUSR1)  # Slurm's, by --signal
    said, _ = first.communicate()
    assert "samples in 3 shards" not in said
    assert (checkout / "bin/scontrol.asked").read_text() == "requeue 7\n"
    again = start_slurm(checkout, ray_folder)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert "9 samples in 3 shards" in said
    assert verify(f"{checkout}/out", Storage()).problems == []


@pytest.mark.slow
def test_skypilots_run_has_a_head_and_workers(checkout: Path, ray_folder: str) -> None:
    task = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text())
    given = {**task["envs"], "JOB": "jobs/quickstart.yaml", "INPUT": f"{checkout}/scenes", "OUTPUT": f"{checkout}/out"}
    sky = {"SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1", "RAY_AUTH_TOKEN": "0123456789abcdef" * 2}
    given["RAY_gcs_rpc_server_reconnect_timeout_s"] = "1"  # how long a worker waits for a head that has gone; 60
    script = task["run"].replace("/tmp/dr-ray", ray_folder).replace("6379", str(free_port()))
    nodes = [start(script, [], checkout, **given, **sky, SKYPILOT_NODE_RANK=str(rank)) for rank in range(2)]
    said = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "9 samples in 3 shards" in said[0]
    assert verify(f"{checkout}/out", Storage()).problems == []
