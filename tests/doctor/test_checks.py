"""Each check in an environment that is really broken in one way: what it says, and what to do."""

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from huggingface_hub import constants

from dr_pipeline.config.job import Job
from dr_pipeline.doctor.examination import JOB_CHECKS, MACHINE_CHECKS, Diagnosis, run_check
from dr_pipeline.doctor.gpu import Driver, how_to_see
from tests.chat_server import chat_server
from tests.conftest import make_job, tar_bytes
from tests.demo_job import demo_job, make_scenes
from tests.ports import free_port
from tests.s3_server import s3_server

SECRET = "CANARY-f00d"


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return make_scenes(tmp_path / "scenes", num_shards=2, samples_per_shard=1)


@pytest.fixture
def without_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def bucket(without_credentials: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket `lab` with one shard, and its server's URL."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with s3_server() as url:
        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="lab")
        client.put_object(Bucket="lab", Key="in/0.tar", Body=tar_bytes([]))
        yield url


def states(subject: str, job: Job | None = None) -> list[str]:
    return [diagnosis.state for diagnosis in run_check(subject, job)]


def failure(subject: str, job: Job | None = None) -> Diagnosis:
    """The one thing that a check finds to fail."""
    (found,) = [diagnosis for diagnosis in run_check(subject, job) if diagnosis.state == "fails"]
    return found


SUBJECTS = [name for name in (*MACHINE_CHECKS, *JOB_CHECKS) if name not in ("workers", "GPUs", "compiler")]
"""Without those that another machine may answer otherwise."""


@pytest.mark.parametrize("subject", SUBJECTS)
def test_nothing_fails_here(subject: str, scenes: Path, tmp_path: Path) -> None:
    assert "fails" not in states(subject, demo_job(scenes, tmp_path / "out"))
    assert subject in JOB_CHECKS or "fails" not in states(subject)


@pytest.mark.ray
def test_a_dead_cluster_is_told_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    assert "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:" in failure("workers").fact


@pytest.mark.parametrize(("mode", "state"), [("token", "fails"), ("disabled", "warning")])
def test_a_cluster_is_joined_with_a_token(
    mode: str, state: str, without_credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    assert states("Ray's token") == [state]
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(SECRET)
    (found,) = run_check("Ray's token", None)
    assert (found.state, found.fact) == ("ok", "from ~/.ray/auth_token")


def test_few_open_files_are_told_with_the_command() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        found = failure("open files")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (found.fact, found.advice[:10]) == ("200", "ulimit -n ")


def test_an_output_that_cannot_be_written_is_told_and_no_folder_is_left(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (f"{tmp_path}/file/out", "/proc/out"):
        job = demo_job(scenes, output)
        assert "cannot be written" in failure("output", job).fact
    job = demo_job(scenes, f"{tmp_path}/a/b")
    assert states("output", job) == ["ok"]
    assert not (tmp_path / "a").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "scenes"]


def test_a_full_disk_is_told_with_the_folders_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True)
    if mount.returncode:
        pytest.skip("a disk of one's own takes the right to mount it")
    try:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        assert failure("disk").fact.endswith(f"free for temporary files {tmp_path}")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_missing_credentials_are_told_with_what_to_set(without_credentials: None) -> None:
    job = make_job(input={"shards": "s3://lab/in"}, output={"path": "s3://lab/out"})
    assert "set AWS_ACCESS_KEY_ID" in failure("credentials", job).fact
    open_to_all = make_job(input={"shards": "s3://lab/in", "storage": {"anon": True}})
    assert [found.fact for found in run_check("credentials", open_to_all)] == ["input: none: anon"]


def test_a_bucket_is_listed_and_written_and_left_as_it_was(bucket: str) -> None:
    storage = {"endpoint_url": bucket}
    job = make_job(
        input={"shards": "s3://lab/in", "storage": storage}, output={"path": "s3://lab/out", "storage": storage}
    )
    sources = [found.fact for found in run_check("credentials", job)]
    assert sources == ["input: environment variables", "output: environment variables"]
    assert states("input", job) == ["ok"]
    assert states("output", job) == ["ok"]
    left = boto3.client("s3", endpoint_url=bucket).list_objects_v2(Bucket="lab")["Contents"]
    assert [found["Key"] for found in left] == ["in/0.tar"]


def test_a_wrong_endpoint_and_a_wrong_bucket_fail_and_show_no_secret(bucket: str) -> None:
    dead = {"endpoint_url": f"http://127.0.0.1:{free_port()}", "config_kwargs": {"retries": {"total_max_attempts": 1}}}
    for shards, storage in (("s3://lab/in", dead), ("s3://nowhere/in", {"endpoint_url": bucket})):
        found = failure("input", make_job(input={"shards": shards, "storage": storage}))
        assert shards in found.fact
        assert SECRET not in found.fact


def test_models_are_looked_for_where_their_cards_say(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = demo_job(scenes, tmp_path / "out", f"teachers.0.options.weights={tmp_path}/absent.safetensors")
    found = failure("models", job)
    assert found.fact.startswith("scene_clip_a: ")
    assert f"no file at {tmp_path}/absent.safetensors" in found.fact
    job = demo_job(scenes, tmp_path / "out", "teachers.0.options.weights=hf-hub:lab/absent")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "hf-hub:lab/absent cannot be had: it is not in the hub's cache" in failure("models", job).fact


def test_endpoints_are_asked(scenes: Path, tmp_path: Path) -> None:
    def job(url: str) -> Job:
        use = "dr_pipeline.models.endpoint:EndpointCaptioner"
        captioner = (
            f"{{name: vlm, use: '{use}', options: {{model: m}}, connection: {{base_url: '{url}'}}, prompt: Say it.}}"
        )
        return demo_job(scenes, tmp_path / "out", f"captioners=[{captioner}]", "workers.cpus=1")

    with chat_server() as server:
        assert states("endpoints", job(server.base_url)) == ["ok"]
    assert "nothing answers at" in failure("endpoints", job(f"http://127.0.0.1:{free_port()}/v1")).fact


def test_a_driver_that_is_too_old_is_to_be_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = Driver("535.54", (12, 2), ("a GPU",)), Driver("600.1", (13, 5), ("a GPU",))
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert "update the driver" in how_to_see(old)
    assert "nvidia-smi" in how_to_see(new)
    monkeypatch.setattr("torch.version.cuda", None)
    assert "built for the CPU" in how_to_see(new)


def test_a_folder_of_several_words_is_a_folder(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my data of today"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert set(states("disk", demo_job(scenes, folder / "out put"))) <= {"ok", "warning"}


def test_a_user_without_a_home_is_told_what_to_set(without_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # as of a container that runs as any number
    monkeypatch.delenv("DR_PIPELINE_CACHE", raising=False)
    assert "fails" not in states("Ray's token")
    assert "this user has no home: set DR_PIPELINE_CACHE to a folder" in failure("disk").fact
