"""How a storage fails: with one error that names the URI, whichever client reaches the storage."""

from collections.abc import Iterator
from contextlib import contextmanager

from dr_pipeline.errors import PipelineError


class StorageError(PipelineError, OSError):
    """A storage cannot be reached, or refuses a request.

    It is an OSError with the cause's `errno` too, so that code that handles a disk's errors handles a bucket's.
    """

    exit_code = 2


class MissingError(StorageError, FileNotFoundError):
    """A storage has no such file."""


class ExistsError(StorageError, FileExistsError):
    """A storage has a file where a new one was to be created."""


_KINDS = {FileNotFoundError: MissingError, NotADirectoryError: MissingError, FileExistsError: ExistsError}


@contextmanager
def storage_errors(uri: str, done: str) -> Iterator[None]:
    """Raise every error of the block as a StorageError: `URI cannot be DONE`, `done` being read, written or listed."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # each storage's client has errors of its own
        kind = next((ours for theirs, ours in _KINDS.items() if isinstance(error, theirs)), StorageError)
        reason = error.strerror if isinstance(error, OSError) and error.filename else str(error)
        failure = kind(f"{uri} cannot be {done}: {type(error).__name__}: {reason}")
        failure.errno = error.errno if isinstance(error, OSError) else None
        raise failure from error
