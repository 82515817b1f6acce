"""What compose.yaml runs in its containers, run here as processes: every service's own command and health check.

Names of containers become addresses of this machine, and the S3 server is the tests'.
"""

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from tests.ports import free_port
from tests.s3_server import s3_server
from tests.waiting import wait_until

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parent.parent.parent
SMALL = "augmentation.num_views=2 captioners.0.num_captions=1"


class Compose:
    """The services of the file, with other places in place of the containers'."""

    def __init__(self, places: dict[str, str]):
        text = (ROOT / "docker/compose.yaml").read_text()
        text = re.sub(r"\$\{\w+:\?[^}]*\}", lambda _: secrets.token_hex(16), text)
        for name, place in places.items():
            assert name in text
            text = text.replace(name, place)
        self._services: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
        self._token = self._services["head"]["environment"]["RAY_AUTH_TOKEN"]

    def run(self, service: str, more: str = "") -> str:
        """Run a service's command to its end. Gives what it printed."""
        words = shlex.split(f"{self._services[service].get('entrypoint', 'dr-pipeline')} {more}")
        ran = subprocess.run(words, env=self._environment(service), cwd=ROOT, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    @contextmanager
    def up(self, service: str, more: str, agent_port: str) -> Iterator[None]:
        """Start a service that stays, and wait until it is healthy by its own check."""
        words = shlex.split(
            f"{self._services[service]['entrypoint']} {more} --dashboard-agent-listen-port={agent_port}"
        )
        process = subprocess.Popen(words, env=self._environment(service), cwd=ROOT)
        check = self._services[service]["healthcheck"]["test"].replace("52365", agent_port)
        try:
            wait_until(lambda: process.poll() is not None or subprocess.run(check, shell=True).returncode == 0)
            assert process.poll() is None
            yield
        finally:
            process.terminate()  # as the container's init does
            process.wait()

    def _environment(self, service: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        declared = {**self._services[service]["environment"], "RAY_AUTH_TOKEN": self._token}
        return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **declared}


@pytest.fixture
def compose(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compose]:
    """The file with its S3 server, head and worker up."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    port, dashboard = free_port(), free_port()
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    head_alone = f"--temp-dir={folder} --dashboard-port={dashboard} --ray-client-server-port={free_port()}"
    with s3_server() as url, ExitStack() as stack:
        places = {
            "http://s3:8333": url,
            "http://head:8265": f"http://127.0.0.1:{dashboard}",
            "head:6379": f"127.0.0.1:{port}",
            "--port=6379": f"--port={port}",
            "--dashboard-host=0.0.0.0": "--dashboard-host=127.0.0.1",
            "/opt/dr-pipeline": str(ROOT),
        }
        boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        ).create_bucket(Bucket="dr-pipeline")  # SeaweedFS makes a bucket when it is written to
        services = Compose(places)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(services.up("head", head_alone, str(free_port())))
        stack.enter_context(services.up("worker", "", str(free_port())))
        yield services


@pytest.mark.s3
@pytest.mark.slow
def test_the_demo_runs_on_the_bucket_and_verifies(compose: Compose) -> None:
    compose.run("scenes", "--shards 2 --samples 3")
    assert "6 samples in 2 shards at s3://dr-pipeline/reinforced" in compose.run("quickstart", SMALL)
    assert "6 samples in 2 shards read: no problem" in compose.run("client", "verify s3://dr-pipeline/reinforced")
