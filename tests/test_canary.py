"""Credentials that a job was given, or that it names, are nowhere afterwards: outputs, logs, errors, arguments."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import ray
import yaml

from dr_pipeline.cli import main
from dr_pipeline.config.job import Job
from dr_pipeline.runners.run import run
from tests import web
from tests.demo_job import QUICKSTART, Silent, demo_job, make_scenes, small
from tests.training.conftest import CLIP, WORDS

CANARY = "canary-51e7"
QUERY = f"?X-Amz-Credential={CANARY}%2F20260101&X-Amz-Signature={CANARY}"


class NotingHandler(web.Handler):
    """Notes the keys that it was given."""

    keys: ClassVar[set[str | None]] = set()
    """What requests came with as X."""

    def send_head(self) -> Any:
        """Answer a request, and note its key."""
        self.keys.add(self.headers.get("X"))
        return super().send_head()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where two shards of scenes, and one that is none, lie."""
    folder = make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=2, samples_per_shard=2)
    (folder / "00002.tar").write_bytes(b"<html>" * 200)
    with web.served(folder, NotingHandler) as served:
        yield served.replace("http://", f"http://bob:{CANARY}@")


def signed(address: str, *names: str) -> str:
    return "[" + ", ".join(f"'{address}/{name}{QUERY}'" for name in names) + "]"


def written(folder: Path) -> bytes:
    """All names and contents below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert files
    return b"\n".join(str(path).encode() + b"\n" + path.read_bytes() for path in files)


def test_outputs_logs_and_the_terminal_hold_no_credentials(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, caplog: object
) -> None:
    logging.getLogger().setLevel(logging.INFO)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    shards = signed(address, "00000.tar", "00001.tar", "00002.tar")
    overrides = [*small(shards, tmp_path / "out"), f"input.storage.client_kwargs={{headers: {{X-Key: {CANARY}}}}}"]
    assert main(["plan", str(QUICKSTART), *overrides]) == 0
    assert main(["run", str(QUICKSTART), *overrides]) == 1
    assert main(["run", str(QUICKSTART), *overrides, "--json"]) == 1
    assert main(["verify", str(tmp_path / "out")]) == 1
    wrong = [*small(signed(address, "gone.tar"), tmp_path / "other"), f"input.storage.secret={CANARY}"]
    assert main(["run", str(QUICKSTART), *wrong]) == 2
    shown = capfd.readouterr()
    assert "failed 00002.tar" in shown.out
    assert CANARY not in shown.out + shown.err
    assert CANARY not in caplog.text  # type: ignore[attr-defined]
    assert CANARY.encode() not in written(tmp_path)
    assert {path.name for path in (tmp_path / "out").glob("*.tar")} == {"00000.tar", "00001.tar"}


def test_another_signature_is_the_same_job(address: str, tmp_path: Path) -> None:
    def job(signature: str) -> Job:
        return demo_job(f"{address}/00000.tar?X-Amz-Signature={signature}", tmp_path)

    run(job("one"), Silent())
    again = Silent()
    run(job("two"), again)
    assert again.reports == []


@pytest.mark.ray
def test_workers_are_not_given_credentials_as_arguments(
    address: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    class Watching(Silent):
        def reported(self, report: object) -> None:
            super().reported(report)
            lines.extend(" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))

    lines: list[str] = []
    on_ray = ["workers.engine=ray", "workers.max=1", "workers.cpus=1", "workers.gpus=0"]
    job = demo_job(signed(address, "00000.tar", "00002.tar"), tmp_path, *on_ray)
    job = job.model_copy(
        update={"input": job.input.model_copy(update={"storage": {"client_kwargs": {"headers": {"X-Key": CANARY}}}})}
    )
    try:
        run(job, Watching())
    finally:
        ray.shutdown()
    assert any("ray::" in line for line in lines)
    assert not [line for line in lines if CANARY in line]
    shown = capfd.readouterr()
    assert CANARY not in shown.out + shown.err
    assert CANARY.encode() not in written(tmp_path)


KEY = "canary-51e7-by-environment"
TOKEN = "canary-51e7/by file"
OPTIONS = {"api_key": "${env:LAB_KEY}", "headers": [{"Authorization": "Bearer ${file:token.txt}"}]}
PLUGIN = f"""
import torch
from dr_pipeline.models.protocol import ImageSpec, TeacherSpec

class Remote:
    def __init__(self, device, api_key, headers, fails=""):
        assert (api_key, headers) == ({KEY!r}, [{{"Authorization": {"Bearer " + TOKEN!r}}}])
        if fails == "constructor":
            raise RuntimeError(f"401 for {{api_key}} {{headers}}")
        self.sent, self.fails = f"{{api_key}} {{headers}}", fails
        self.spec = TeacherSpec(image_size=8, mean=(0.5,) * 3, std=(0.5,) * 3, dim=4)

    def encode_images(self, images_BCHW):
        if self.fails == "images" and len(images_BCHW) > 1:
            raise RuntimeError(f"401 for {{self.sent}}")
        return images_BCHW.flatten(1)[:, :4] + 2

    def encode_texts(self, texts):
        return torch.ones(len(texts), 4)

class RemoteCaptioner(Remote):
    def caption(self, images_BCHW, streams, sampling):
        return [["a caption" for _ in row] for row in streams]

    def __init__(self, device, api_key, headers):
        super().__init__(device, api_key, headers)
        self.spec = ImageSpec(8, (0.5,) * 3, (0.5,) * 3)
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a plug-in that needs two secrets, which are outside of it."""
    folder, secret = tmp_path / "lab", tmp_path / "secret"
    folder.mkdir()
    secret.mkdir()
    (folder / "lab_of_canary.py").write_text(PLUGIN)
    (secret / "token.txt").write_text(f"{TOKEN}\n")
    (folder / "token.txt").symlink_to(secret / "token.txt")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LAB_KEY", KEY)
    return folder


def remote(use: str = "Remote", **options: str) -> dict[str, object]:
    return {"name": f"a_{use}", "use": f"lab_of_canary:{use}", "options": OPTIONS | options}


def write_job(lab: Path, address: str, **options: str) -> list[str]:
    """A job file with a secret in each kind of option, and its overrides."""
    tree = {
        "name": "canary",
        "input": {"shards": f"{address}/00000.tar", "storage": {"client_kwargs": {"headers": {"X": "${env:LAB_KEY}"}}}},
        "output": {"path": "out", "storage": {"auto_mkdir": True}},
        "teachers": [remote(**options)],
        "captioners": [remote("RemoteCaptioner")],
        "augmentation": {"num_views": 2, "random_resized_crop": {"size": 8}},
        "workers": {"engine": "local", "gpus": 0, "cpus": 1},
    }
    (lab / "job.yaml").write_text(yaml.safe_dump(tree))
    return ["job.yaml"]


def assert_nothing_leaked(lab: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> str:
    shown = capfd.readouterr()
    stored = b"".join(
        path.read_bytes() for path in lab.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".txt")
    )
    for secret in (KEY, TOKEN):
        assert secret not in shown.out + shown.err + caplog.text
        assert secret.encode() not in stored
    return shown.out + shown.err


def test_what_options_name_reaches_the_plug_in_and_is_stored_by_its_name(
    lab: Path, address: str, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    command = write_job(lab, address)
    assert main(["plan", *command]) == 0
    assert main(["run", *command]) == 0
    assert main(["run", *command, "errors.attempts=2", "--json"]) == 0
    assert main(["verify", "out", "--deep"]) == 0
    assert KEY in NotingHandler.keys  # and it reached the storage
    assert_nothing_leaked(lab, capfd, caplog)
    identity = json.loads((lab / "out/config.json").read_text())["dr_pipeline"]["identity"]
    assert identity["teachers"][0]["options"] == identity["captioners"][0]["options"] == OPTIONS


@pytest.mark.parametrize(("fails", "code"), [("constructor", 2), ("images", 1)])
def test_an_error_that_quotes_a_secret_is_shown_with_its_name(
    lab: Path, address: str, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture, fails: str, code: int
) -> None:
    assert main(["run", *write_job(lab, address, fails=fails)]) == code
    shown = assert_nothing_leaked(lab, capfd, caplog)
    assert "401 for ${env:LAB_KEY} [{'Authorization': 'Bearer ${file:token.txt}'}]" in shown


def test_a_card_is_checked_with_what_it_names(
    lab: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    (lab / "card.yaml").write_text(yaml.safe_dump(remote(fails="images")))
    assert main(["check-teacher", "card.yaml"]) == 1
    assert "401 for ${env:LAB_KEY}" in assert_nothing_leaked(lab, capfd, caplog)


def test_a_reference_that_stands_for_nothing_is_named(
    lab: Path, address: str, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = write_job(lab, f"{address}")
    (lab / "token.txt").unlink()
    assert main(["run", *command, "input.storage={}"]) == 2
    assert (
        f"options.headers.0.Authorization: ${{file:token.txt}}: {lab}/token.txt: No such file" in capfd.readouterr().err
    )
    monkeypatch.delenv("LAB_KEY")
    assert main(["run", *command]) == 2
    assert "storage.client_kwargs.headers.X: ${env:LAB_KEY}: the environment variable LAB_KEY" in capfd.readouterr().err


@pytest.mark.parametrize("section", ["teachers", "captioners"])
def test_a_secret_itself_is_refused_with_advice(
    lab: Path, address: str, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture, section: str
) -> None:
    assert main(["run", *write_job(lab, address), f"{section}.0.options.api_key={KEY}"]) == 2
    shown = assert_nothing_leaked(lab, capfd, caplog)
    assert f"{section}.0.options.api_key: this looks like a secret" in shown
    assert "${env:NAME}" in shown
    assert not (lab / "out").exists()


@pytest.mark.ray
def test_fit_workers_ray_read_what_options_name_for_themselves(
    lab: Path, address: str, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    command = write_job(lab, address)
    on_ray = ["workers.engine=ray", "workers.max=1", "teachers.0.options.fails=images"]
    try:
        assert main(["run", *command, *on_ray]) == 1
    finally:
        ray.shutdown()
    assert "401 for ${env:LAB_KEY}" in assert_nothing_leaked(lab, capfd, caplog)


def test_training_and_evaluation_name_their_secrets_too(
    lab: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    architecture = {"model_cfg": CLIP}
    (lab / "student.json").write_text(json.dumps(architecture))
    storage = {"auto_mkdir": "${env:LAB_KEY}"}
    shutil.copytree(make_scenes(lab.parent / "scenes", 1, 4), lab / "base")
    tree = {
        "name": "student",
        "data": {"shards": "base", "augmentation": {}, "workers": 0, "storage": storage},
        "student": {"architecture": "student.json", "tokenizer": WORDS},
        "captions": {"synthetic_weight": 0},
        "distillation": {"online_teachers": [remote()]},
        "schedule": {"steps": 1, "batch_size": 2, "warmup_steps": 0},
        "evaluation": {"retrieval": [{"name": "scenes", "data": "base", "storage": storage}]},
        "run": {"path": "run"},
    }
    (lab / "train.yaml").write_text(yaml.safe_dump(tree))
    assert main(["train", "train.yaml"]) == 0
    assert "${env:LAB_KEY}" in (lab / "run/job.json").read_text()
    assert main(["train", "train.yaml", f"distillation.online_teachers.0.options.api_key={KEY}"]) == 2
    assert_nothing_leaked(lab, capfd, caplog)
