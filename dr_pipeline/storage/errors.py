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


_RIGHTS = {
    "listed": "s3:ListBucket",
    "written": "s3:PutObject",
    "deleted": "s3:DeleteObject",
}
"""What is done → what S3 calls the right to it."""
_READING = "s3:GetObject and s3:ListBucket"
"""The rights to all else: without the second, what is not there is forbidden, not missing."""
S3 = ("s3://", "s3a://")
"""How an address on S3 begins."""


@contextmanager
def storage_errors(uri: str, done: str) -> Iterator[None]:
    """Raise every error of the block as a StorageError: `URI cannot be DONE`, `done` being read, written or listed."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # each storage's client has errors of its own
        kind = next((ours for theirs, ours in _KINDS.items() if isinstance(error, theirs)), StorageError)
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.filename:
            why = error.strerror or str(error)
        if lacks_bucket(error):  # not a MissingError: with the bucket, all that it should hold is out of reach
            kind, bucket = StorageError, uri.partition("://")[2].partition("/")[0]
            why = f"there is no bucket {bucket}: create it, or correct the address or the endpoint_url"
        elif isinstance(error, PermissionError) and uri.startswith(S3):
            right = _RIGHTS.get(done, _READING)
            why += f": these credentials may not do that: give them the right ({right}), or choose others (AWS_PROFILE)"
        failure = kind(f"{uri} cannot be {done}: {why}")
        failure.errno = error.errno if isinstance(error, OSError) else None
        raise failure from error


def lacks_bucket(error: BaseException) -> bool:
    """Whether S3 has refused a request because there is no such bucket: its client calls that a missing file."""
    response = getattr(error.__cause__ or error, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") == "NoSuchBucket"
