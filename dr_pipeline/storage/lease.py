"""A lease on an output: one run at a time writes it, and renews a record in it for as long as it lives.

A run that finds no record creates one. Where the storage has create-if-absent, this succeeds for one of two runs that
start at once; not every storage has it, and no lock exists on all of them. So a run reads its record again a little
later: of two that start at once, the last to write wins. A run that finds another's record watches whether it is
renewed, since the clocks of two machines need not agree.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.redaction import without_secrets
from dr_pipeline.storage.errors import StorageError
from dr_pipeline.storage.storage import Storage

log = logging.getLogger(__name__)

RENEWAL_S = 15.0
_SETTLING_S = 0.5
_DEAD = ("Z", "X")
"""Linux's states of processes that have ended. A zombie stays until its parent asks how it ended, as no init may do."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Lease:
    """This run's right to write the output `root`. The file `record` in it says whose right it is."""

    def __init__(self, root: str, record: str, storage: Storage):
        self._uri = f"{root}/{record}"
        self._root = root
        self._storage = storage
        self._me = {"run": uuid.uuid4().hex, "host": _host(), "pid": os.getpid(), "began": _began(os.getpid())}
        self._renewals = 0
        self._started_at = round(time.time(), 3)
        self._progress: dict[str, Any] = {}
        self._ended = threading.Event()
        self._lost = False

    @contextmanager
    def held(self) -> Iterator[Self]:
        """Take the output for the block. Raises ConfigError when another run has it, or it cannot be written."""
        try:
            self._take()
        except OSError as error:
            raise ConfigError(f"output.path {self._root} cannot be written: {error}") from error
        renewing = threading.Thread(target=self._renew, daemon=True)
        renewing.start()
        try:
            yield self
        finally:
            self._ended.set()
            renewing.join()
            if not self._lost:
                self._storage.delete(self._uri)

    def check(self) -> None:
        """Raise PipelineError when another run has taken the output over, as after a long pause of this one."""
        if self._lost:
            raise PipelineError(f"another run writes {self._root} now; this one has stopped")

    def note(self, progress: dict[str, Any]) -> None:
        """Have the next renewals tell how far the run is; whoever may read the output may read it."""
        self._progress = progress

    def _take(self) -> None:
        """Write this run's record. Raises ConfigError when another run lives, or has begun at the same time."""
        other = self._read()
        if other is not None and self._lives(other):
            raise ConfigError(
                f"{self._root} is being written by another run (process {other.get('pid')} on {other.get('host')}): "
                "wait for it, or choose another output.path"
            )
        if other is not None:
            self._write()
            self._storage.sweep(self._root)  # its run was killed, perhaps while it wrote a file
        else:
            try:
                self._storage.create(self._uri, self._record())
            except FileExistsError:
                pass  # by another run; or by this one, where an answer was lost and the client has asked again
            except StorageError as error:
                log.info("%s: written without create-if-absent: %s", self._uri, without_secrets(str(error)))
                self._write()
        time.sleep(_SETTLING_S)
        if not self._is_mine():
            raise ConfigError(f"another run has just begun to write {self._root}: wait for it")

    def _lives(self, other: dict[str, Any]) -> bool:
        """Whether a record's run is alive: asked of this machine, or seen by its renewals."""
        if other.get("host") == _host() and other.get("began") is not None:
            return _began(other.get("pid")) == other["began"]
        deadline = time.monotonic() + 2 * RENEWAL_S
        while time.monotonic() < deadline:
            time.sleep(1.0)
            now = self._read()
            if now != other:
                return now is not None  # None: it has just ended
        return False

    def _renew(self) -> None:
        """Write the record again and again until the lease ends, or is seen to be another run's."""
        while not self._ended.wait(RENEWAL_S):
            try:
                if not self._is_mine():
                    self._lost = True
                    return
                self._write()
            except OSError as error:  # the next renewal is another try
                said = without_secrets(f"{type(error).__name__}: {error}")
                log.warning("%s cannot be renewed; another run may take the output for given up: %s", self._uri, said)

    def _is_mine(self) -> bool:
        record = self._read()
        return record is not None and record.get("run") == self._me["run"]

    def _read(self) -> dict[str, Any] | None:
        """The record in the output; {} when it is damaged, None when there is none."""
        try:
            record = json.loads(self._storage.read(self._uri))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}

    def _write(self) -> None:
        self._renewals += 1
        self._storage.write(self._uri, self._record())

    def _record(self) -> bytes:
        times = {"started_at": self._started_at, "renewed_at": round(time.time(), 3)}
        return json.dumps({**self._me, "renewals": self._renewals, **times, "progress": self._progress}).encode()


def _began(pid: Any) -> str | None:
    """When a process of this machine began, in Linux's ticks since boot; None where it has ended, or nothing tells."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in _DEAD else fields[18]


def _host() -> str:
    """The name of this machine, with the identity of its last boot where Linux tells it."""
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "?"
    return f"{socket.gethostname()}, boot {boot}"
