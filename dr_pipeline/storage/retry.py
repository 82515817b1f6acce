"""Repeat requests that a remote storage fails for a passing reason: it is busy, a connection broke, a node restarts."""

import errno
import io
import logging
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tenacity
from botocore import exceptions as of_botocore

from dr_pipeline.errors import PipelineError
from dr_pipeline.redaction import without_secrets
from dr_pipeline.storage.errors import storage_errors

log = logging.getLogger(__name__)

Result = TypeVar("Result")

RETRY_S = 300.0
"""How long one request is repeated: longer than a storage's usual outage, shorter than a shard's deadline."""

_LONGEST_PAUSE_S = 20.0

_PERMANENT = (PipelineError, FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_BUGS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, NameError,
         RuntimeError, TypeError, ValueError)  # fmt: skip
_PERMANENT_NUMBERS = {errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE,
                      errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # fmt: skip
_TRANSIENT_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_TRANSIENT_OF_BOTOCORE = (
    of_botocore.ConnectionError,
    of_botocore.HTTPClientError,
    of_botocore.IncompleteReadError,
    of_botocore.ChecksumError,
    of_botocore.FlexibleChecksumError,
    of_botocore.MetadataRetrievalError,
)
"""The others are about what the user has set: credentials, a profile, a region, a parameter."""
_PERMANENT_OF = {
    "google.auth.exceptions": "DefaultCredentialsError",
    "azure.core.exceptions": "ClientAuthenticationError",
}
"""Of clients that need not be installed: module → class. A module that is not loaded has raised no error."""


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later. An error of a client that is not known here may."""
    if not isinstance(error, Exception) or isinstance(error, _PERMANENT):
        return False
    of_clients = (getattr(sys.modules.get(module), name, ()) for module, name in _PERMANENT_OF.items())
    if any(isinstance(error, kind) for kind in of_clients):
        return False
    if isinstance(error, of_botocore.BotoCoreError):
        return isinstance(error, _TRANSIENT_OF_BOTOCORE)
    if isinstance(error, OSError):
        return error.errno not in _PERMANENT_NUMBERS
    if isinstance(error, of_botocore.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        given = (getattr(error, field, None) for field in ("status", "status_code", "code"))  # aiohttp, azure, gcsfs
        status = next((answered for answered in given if isinstance(answered, int)), None)
    return not isinstance(error, _BUGS) if status is None else status in _TRANSIENT_STATUS


def retried(uri: str, done: str, request: Callable[[], Result]) -> Result:
    """The request's result, after as many tries as `RETRY_S` allows, with growing pauses of random length.

    Raises StorageError: the URI `cannot be DONE`.
    """

    def warn(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        said = f"{uri}: try {state.attempt_number}: {type(error).__name__}: {error}"
        log.warning("%s", without_secrets(said))

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        wait=tenacity.wait_random_exponential(max=_LONGEST_PAUSE_S),
        stop=tenacity.stop_before_delay(RETRY_S),
        before_sleep=warn,
        reraise=True,
    )
    with storage_errors(uri, done):
        return retrying(request)


class RetryingStream(io.RawIOBase):
    """A remote file that is opened again at the current position when its connection breaks."""

    def __init__(self, uri: str, open_file: Callable[[], Any]):
        super().__init__()
        self._uri = uri
        self._open_file = open_file
        self._position = 0
        self._file: Any = None  # a stream whose opening failed is closed, too
        self._file = retried(uri, "read", open_file)
        self._size = self._file.size or 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always: a request names the bytes that it wants."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position; the next read asks for the bytes there."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the position on; 0 at the file's end."""
        data = retried(self._uri, "read", lambda: self._read(len(buffer)))
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
