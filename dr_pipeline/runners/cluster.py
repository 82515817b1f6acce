"""The Ray cluster a run joins, or starts for itself when there is none."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import ray

from dr_pipeline.errors import ConfigError

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 10.0


def connect() -> None:
    """Join the cluster that `RAY_ADDRESS` or `ray start` on this machine names; else start one here, for this process.

    Ray would wait minutes for a cluster that is gone, so somebody must listen at the address first.

    Raises:
        ConfigError: nothing answers at `RAY_ADDRESS`.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or None
    if address and not _answers(address):
        raise ConfigError(f"no Ray cluster answers at RAY_ADDRESS={address}: start it, or unset RAY_ADDRESS")
    noted = _address_file()
    if address is None and noted.exists() and not _answers(noted.read_text().strip()):
        log.warning("the cluster that %s names is gone (`ray stop` clears the file); starting one for this run", noted)
        address = "local"
    with _own_handler_of(signal.SIGTERM):
        ray.init(address=address, include_dashboard=False, logging_level=logging.ERROR)


@contextmanager
def _own_handler_of(number: signal.Signals) -> Iterator[None]:
    """Keep the handler that the caller has set: Ray's own ends the process without a word."""
    handler = signal.getsignal(number)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


def _address_file() -> Path:
    """Where `ray start` notes its cluster's address for later `ray.init` calls, which prefer it to starting one."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    return Path(folder, "ray", "ray_current_cluster")


def _answers(address: str) -> bool:
    """Whether a server listens at `host:port` or `scheme://host:port`; words such as `auto` are left to Ray."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname is None or parts.port is None:
        return True
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=_ANSWER_SECONDS).close()
    except OSError:
        return False
    return True
