"""A real head node on loopback that asks for a token: jobs are submitted to it, and `doctor` joins it."""

import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dr_pipeline.doctor import examination
from dr_pipeline.storage import Storage
from dr_pipeline.verification.verify import verify
from tests.demo_job import REPOSITORY, digests, make_scenes
from tests.ray_head import RayHead, ray_head

pytestmark = pytest.mark.ray

SMALL = ["augmentation.num_views=2", "captioners.0.num_captions=1", "workers.max=1"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has on the head node: the files of the repository, and scenes."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("dr_pipeline", "jobs", "teachers"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    make_scenes(folder / "outputs" / "scenes", num_shards=2, samples_per_shard=3)
    return folder


@pytest.fixture(scope="module")
def head(checkout: Path) -> Iterator[RayHead]:
    """It was started in the checkout."""
    with ray_head(checkout) as head:
        yield head


def submit(arguments: list[str], folder: Path, head: RayHead) -> subprocess.CompletedProcess:
    command = ["ray", "job", "submit", *arguments]
    while True:
        done = subprocess.run(command, cwd=folder, env=head.environment, capture_output=True, text=True)
        if "No available agent to submit job" not in done.stdout + done.stderr:
            return done
        time.sleep(1)  # the agent is starting


def test_the_job_file_is_the_entry_point_on_the_head_node(checkout: Path, head: RayHead) -> None:
    done = submit(["jobs/quickstart.yaml", *SMALL], checkout, head)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 samples in 2 shards" in done.stdout
    log = done.stdout[done.stdout.index("quickstart: 2 shards to do") :]
    assert "2 of 2 shards, 6 samples; " in log
    assert not {"\r", "\x1b"} & set(log[: log.index("6 samples in 2 shards")])
    assert verify(str(checkout / "outputs" / "quickstart"), Storage()).problems == []


def test_the_working_folder_travels_with_the_job(checkout: Path, head: RayHead, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for name in ("dr_pipeline", "jobs"):
        shutil.copytree(checkout / name, mine / name)
    (mine / "jobs" / "plain.py").write_text(PLUGIN)
    (mine / "jobs" / "plain.yaml").write_text(PLUGIN_CARD)
    places = [f"input.shards={checkout}/outputs/scenes", f"output.path={tmp_path}/out"]
    teachers = "teachers=[{card: jobs/plain.yaml}]"
    done = submit(["--working-dir", ".", "--", "jobs/quickstart.yaml", "-v", *SMALL, *places, teachers], mine, head)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"worker \d+ on \S+: INFO loading captioner scene_coca", done.stdout), "-v reaches workers"
    assert verify(f"{tmp_path}/out", Storage()).problems == []
    assert len(digests(tmp_path / "out")) == 2


def test_an_output_in_the_copy_of_the_folder_is_refused(checkout: Path, head: RayHead, tmp_path: Path) -> None:
    for name in ("dr_pipeline", "jobs"):
        shutil.copytree(checkout / name, tmp_path / name)
    places = [f"input.shards={checkout}/outputs/scenes", "output.path=outputs/mine"]
    done = submit(["--working-dir", ".", "--", "jobs/quickstart.yaml", *SMALL, *places], tmp_path, head)
    assert done.returncode != 0
    assert "outputs/mine lies in the copy of the working folder that Ray made" in done.stdout
    assert "give an absolute path" in done.stdout


def test_a_failed_shard_fails_the_submission(checkout: Path, head: RayHead, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.tar").write_bytes(b"")
    places = [f"input.shards={tmp_path}/in", f"output.path={tmp_path}/out"]
    done = submit(["jobs/quickstart.yaml", *SMALL, *places], checkout, head)
    assert done.returncode != 0
    assert "failed 0.tar: the file is empty" in done.stdout


def test_doctor_joins_it_by_its_token_alone(head: RayHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "MACHINE_CHECKS", {"workers": "cluster.workers"})
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, head.environment[name])
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    ((_, joined),) = examination.examine(None)
    assert joined.state == "ok"
    assert "in the cluster at hand: 2 CPU, 0 GPU" in joined.fact
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    ((_, refused),) = examination.examine(None)
    assert refused.state == "fails"
    assert refused.advice.startswith("give this process the cluster's token")


PLUGIN = '''
"""A teacher in a plain file beside the job file."""

import torch

from dr_pipeline.models.protocol import TeacherSpec


class MeanColour:
    """Images by their mean colour, texts by their first letters: enough of a contract to be run."""

    def __init__(self, device, offset):
        self.spec = TeacherSpec(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=3)
        self.device, self.offset = device, offset

    def encode_images(self, images_BCHW):
        return images_BCHW.mean(dim=(2, 3)) + self.offset

    def encode_texts(self, texts):
        codes = [[float(ord(letter)) for letter in (text + "   ")[:3]] for text in texts]
        return torch.tensor(codes, device=self.device) + self.offset
'''

PLUGIN_CARD = """
use: plain:MeanColour
options: {offset: 2.0}
dim: 3
image_size: 32
"""
