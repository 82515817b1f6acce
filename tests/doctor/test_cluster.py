"""The check of workers against a real head that asks for a token."""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dr_pipeline.doctor import examination
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A head of one CPU, which this process has address and token of."""
    ray = Path(sys.executable).with_name("ray")
    port, token = free_port(), secrets.token_hex(16)
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        words = ["--head", "--block", "--num-cpus=1", "--include-dashboard=false", f"--temp-dir={folder}"]
        ports = [f"--port={port}", f"--ray-client-server-port={free_port()}"]
        process = subprocess.Popen([ray, "start", *words, *ports], env={**os.environ})
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        asked = [ray, "health-check", f"--address=127.0.0.1:{port}"]
        wait_until(lambda: process.poll() is not None or subprocess.run(asked, capture_output=True).returncode == 0)
        yield
        process.terminate()
        process.wait()


def test_a_cluster_is_joined_by_its_token_alone(head: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "MACHINE_CHECKS", {"workers": "cluster.workers"})
    ((_, joined),) = examination.examine(None)
    assert joined.state == "ok"
    assert "in the cluster at hand: 1 CPU, 0 GPU" in joined.fact
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    ((_, refused),) = examination.examine(None)
    assert refused.state == "fails"
    assert refused.advice.startswith("give this process the cluster's token")
