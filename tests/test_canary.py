"""Credentials that a job was given are nowhere afterwards: not in outputs, logs, errors or process arguments."""

import logging
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import ray

from dr_pipeline.cli import main
from dr_pipeline.config import Job
from dr_pipeline.runners.run import run
from tests.demo_job import QUICKSTART, Silent, demo_job, make_scenes, small

CANARY = "canary-51e7"
QUERY = f"?X-Amz-Credential={CANARY}%2F20260101&X-Amz-Signature={CANARY}"


class QuietHandler(SimpleHTTPRequestHandler):
    """A folder over HTTP; `gone` is refused."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where two shards of scenes, and one that is none, lie."""
    folder = make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=2, samples_per_shard=2)
    (folder / "00002.tar").write_bytes(b"<html>" * 200)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://bob:{CANARY}@127.0.0.1:{server.server_port}"
    server.shutdown()


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
