"""A head node as users start it, by `ray start`, on ports of its own."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.ports import free_port


class RayHead(NamedTuple):
    """A head node that runs."""

    environment: dict[str, str]
    """What reaches its dashboard, for `ray job`; its token is in it."""
    address: str
    """The cluster's, for RAY_ADDRESS of a driver."""
    folder: Path
    """Where it keeps its files."""


@contextmanager
def ray_head(folder: Path, **settings: str) -> Iterator[RayHead]:
    """A head node that was started in a folder, for the block; `settings`: more of its environment."""
    dashboard, port = free_port(), free_port()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nobody waits for the end of its work; 30
        **settings,
    }
    # `ray start` notes its cluster's address in its folder: in the folder that all share, every later run would find
    # it, and this cluster gone.
    temporary = tempfile.mkdtemp(prefix="ray-")
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}", "--disable-usage-stats"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={temporary}"]
    command += [f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
    starting = {key: value for key, value in environment.items() if key != "RAY_ADDRESS"}
    process = subprocess.Popen(command, cwd=folder, env=starting, start_new_session=True)
    try:
        while subprocess.run(["ray", "job", "list"], env=environment, capture_output=True).returncode:
            assert process.poll() is None, "the head node did not start"
        yield RayHead(environment, f"127.0.0.1:{port}", Path(temporary))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
        shutil.rmtree(temporary, ignore_errors=True)
