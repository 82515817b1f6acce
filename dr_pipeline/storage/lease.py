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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.redaction import without_secrets
from dr_pipeline.storage.errors import StorageError
from dr_pipeline.storage.storage import Storage

log = logging.getLogger(__name__)

RENEWAL_S = 15.0
_SILENT_S = 4 * RENEWAL_S
"""So long without a renewal by this machine's clock, and a run of another machine is watched."""
_CLOCKS_DIFFER_S = 86400.0
"""By so much at most, or the run is gone."""
_SETTLING_S = 0.5
_DEAD = ("Z", "X")
"""Linux's states of processes that have ended. A zombie stays until its parent asks how it ended, as no init may do."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_lease(root: str, record: str, storage: Storage) -> dict[str, Any] | None:
    """The record of the run that writes an output, or wrote it when it was killed; {} when it is damaged, None when
    there is none, or it is of a run that has ended and could not remove it.

    `host`, `pid`; `started_at` and `renewed_at` in seconds since 1970; `progress`, what the run has noted.
    """
    try:
        found = json.loads(storage.read(f"{root}/{record}"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return None if found.get("ended") else found


class Seen(NamedTuple):
    """A record, and what is known of its run."""

    record: dict[str, Any]
    is_alive: bool
    is_fresh: bool = False
    """Whether it was just seen to be renewed."""


def see_lease(root: str, record: str, storage: Storage) -> Seen | None:
    """The record as `read_lease` gives it, and whether its run lives; None where there is none.

    This machine knows its own processes. Another's run lives where its record was renewed lately by this machine's
    clock. Where it was not, either may be wrong, the run or a clock: then the record is watched for two renewals.
    """
    found = read_lease(root, record, storage)
    if found is None:
        return None
    if (here := _lives_here(found)) is not None:
        return Seen(found, here)
    now, renewed_at = time.time(), found.get("renewed_at")
    if not isinstance(renewed_at, int | float) or not now - _CLOCKS_DIFFER_S < renewed_at < now + _CLOCKS_DIFFER_S:
        return Seen(found, False)
    if now - _SILENT_S < renewed_at < now + _SILENT_S:
        return Seen(found, True)
    log.warning("%s/%s: renewed long ago or on another clock: watched for %g s", root, record, 2 * RENEWAL_S)
    later = _watch(found, lambda: read_lease(root, record, storage))
    return None if later is None else Seen(later, later != found, is_fresh=later != found)


def _watch(record: dict[str, Any], read: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """What becomes of a record within two renewals: itself where it stays, the next one, or None: it is removed."""
    deadline = time.monotonic() + 2 * RENEWAL_S
    while time.monotonic() < deadline:
        time.sleep(1.0)
        if (now := read()) != record:
            return now
    return record


class Lease:
    """This run's right to write the output `root`. The file `record` in it says whose right it is."""

    def __init__(self, root: str, record: str, storage: Storage):
        self._uri = f"{root}/{record}"
        self._root, self._name = root, record
        self._storage = storage
        self._me = {"run": uuid.uuid4().hex, "host": _host(), "pid": os.getpid(), "began": _began(os.getpid())}
        self._renewals = 0
        self._started_at = round(time.time(), 3)
        self._progress: dict[str, Any] = {}
        self._ended = False
        self._woken = threading.Event()
        self._writing = threading.Lock()
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
            self._ended = True
            self._woken.set()
            renewing.join()
            if not self._lost:
                self._end()

    def check(self) -> None:
        """Raise PipelineError when another run has taken the output over, as after a long pause of this one."""
        if self._lost:
            raise PipelineError(f"another run writes {self._root} now; this one has stopped")

    def note(self, progress: dict[str, Any]) -> None:
        """Have the next renewals tell how far the run is; whoever may read the output may read it."""
        is_first, self._progress = not self._progress, progress
        if is_first:
            self._woken.set()

    def sweep(self) -> None:
        """Remove what lost workers were writing in the output, but not the record that is being written."""
        with self._writing:
            self._storage.sweep(self._root)

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
            self.sweep()  # its run was killed, perhaps while it wrote a file
        else:
            try:
                self._storage.create(self._uri, self._record())
            except FileExistsError:  # of another run; or of this one, where the client asked again for a lost answer
                if self._read() is None:
                    self._write()  # in the place of one that has ended
            except StorageError as error:
                log.info("%s: written without create-if-absent: %s", self._uri, without_secrets(str(error)))
                self._write()
        time.sleep(_SETTLING_S)
        if not self._is_mine():
            raise ConfigError(f"another run has just begun to write {self._root}: wait for it")

    def _lives(self, other: dict[str, Any]) -> bool:
        """Whether a record's run is alive: asked of this machine, or seen by its renewals."""
        if (here := _lives_here(other)) is not None:
            return here
        return _watch(other, self._read) not in (None, other)  # None: it has just ended

    def _renew(self) -> None:
        """Write the record again and again until the lease ends, or is seen to be another run's."""
        while True:
            self._woken.wait(RENEWAL_S)
            self._woken.clear()
            if self._ended:
                return
            try:
                if not self._is_mine():
                    self._lost = True
                    return
                self._write()
            except OSError as error:  # the next renewal is another try
                said = without_secrets(f"{type(error).__name__}: {error}")
                log.warning("%s cannot be renewed; another run may take the output for given up: %s", self._uri, said)

    def _end(self) -> None:
        """Remove the record; where that is refused, mark it as that of a run which has ended."""
        holder = self._read()
        if holder is not None and holder.get("run") != self._me["run"]:
            return  # another run has taken the output since the last renewal
        try:
            self._storage.delete(self._uri)
        except StorageError as error:
            log.warning("%s stays, marked as ended: %s", self._uri, without_secrets(str(error)))
            self._write()

    def _is_mine(self) -> bool:
        record = self._read()
        return record is not None and record.get("run") == self._me["run"]

    def _read(self) -> dict[str, Any] | None:
        return read_lease(self._root, self._name, self._storage)

    def _write(self) -> None:
        self._renewals += 1
        with self._writing:
            self._storage.write(self._uri, self._record())

    def _record(self) -> bytes:
        times = {"started_at": self._started_at, "renewed_at": round(time.time(), 3)}
        state = {"renewals": self._renewals, **times, "ended": self._ended, "progress": self._progress}
        return json.dumps({**self._me, **state}).encode()


def _lives_here(record: dict[str, Any]) -> bool | None:
    """Whether a run of this machine lives; None where it is another machine's."""
    if record.get("host") != _host() or record.get("began") is None:
        return None
    return _began(record.get("pid")) == record["began"]


def _began(pid: Any) -> str | None:
    """When a process of this machine began, in Linux's ticks since boot; None where it has ended, or nothing tells."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):  # a damaged record may name anything
        return None
    return None if state in _DEAD else fields[18]


def _host() -> str:
    """The name of this machine, with the identity of its last boot where Linux tells it."""
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "?"
    return f"{socket.gethostname()}, boot {boot}"
