"""Try again what a remote storage fails at for a passing reason: it is busy, the connection broke, a node restarts."""

import errno
import io
import logging
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from dr_pipeline.errors import PipelineError
from dr_pipeline.redaction import without_secrets

log = logging.getLogger(__name__)

Result = TypeVar("Result")

PATIENCE_S = 300.0
"""How long one request is tried again: longer than a storage's usual outage, shorter than a shard's deadline."""

_LONGEST_PAUSE_S = 20.0
_FOR_GOOD = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError, PipelineError)
_FOR_GOOD_NUMBERS = {
    errno.EINVAL,
    errno.EPERM,
    errno.EACCES,
    errno.ENOSYS,
    errno.ENAMETOOLONG,
    errno.EMSGSIZE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
}
_FOR_GOOD_NAMES = ("Credential", "Profile", "Validation")
"""Parts of the names of client errors about what the user has set."""


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a little later. What a client library raises of its own mostly may."""
    if isinstance(error, _FOR_GOOD) or any(part in type(error).__name__ for part in _FOR_GOOD_NAMES):
        return False
    if isinstance(error, OSError):
        return error.errno not in _FOR_GOOD_NUMBERS
    return type(error).__module__ != "builtins"


def patiently(what: str, request: Callable[[], Result]) -> Result:
    """The request's result, after as many tries as `PATIENCE_S` allows, with growing pauses of random length."""
    started = time.monotonic()
    tries = 0
    while True:
        try:
            return request()
        except Exception as error:  # each storage's client has errors of its own
            tries += 1
            pause_s = random.uniform(0, min(0.5 * 2.0**tries, _LONGEST_PAUSE_S))
            if not may_pass(error) or time.monotonic() - started + pause_s > PATIENCE_S:
                raise
            log.warning("%s", without_secrets(f"{what}: try {tries}: {type(error).__name__}: {error}"))
        time.sleep(pause_s)


class PatientStream(io.RawIOBase):
    """A remote file that is opened again, where reading it had come to, when its connection breaks."""

    def __init__(self, what: str, open_file: Callable[[], Any]):
        super().__init__()
        self._what = what
        self._open_file = open_file
        self._position = 0
        self._file: Any = patiently(what, open_file)
        self._size = self._file.size or 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always: a request names the bytes that it wants."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the file; the next read asks for it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from where reading had come to; 0 at the file's end."""
        data = patiently(self._what, lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Close the connection."""
        if self._file is not None:
            self._file.close()
        super().close()

    def _read(self, size: int) -> bytes:
        self._file = self._file or self._open_file()
        try:
            self._file.seek(self._position)
            data = self._file.read(size)
            if not data and self._position < self._size:
                raise ConnectionError(f"nothing came after byte {self._position} of {self._size}")
        except Exception:
            self._file = None
            raise
        return data
