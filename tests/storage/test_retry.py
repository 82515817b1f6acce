"""Passing errors of a remote storage are waited out, others are not."""

import errno
import io
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientResponseError, RequestInfo
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, NoRegionError, SSLError
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.storage import StorageError
from dr_pipeline.storage.retry import RETRY_S, RetryingStream, retried

BYTES = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which takes time."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


def failing(*errors: Exception) -> Callable[[], str]:
    left = iter(errors)

    def request() -> str:
        for error in left:
            raise error
        return "result"

    return request


def answered(status: int) -> ClientResponseError:
    """What fsspec's client of web servers raises."""
    request = RequestInfo(URL("http://h/k"), "GET", CIMultiDictProxy(CIMultiDict()))
    return ClientResponseError(request, (), status=status, message="from the server")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EBUSY, "SlowDown"),
        OSError("an error without a number"),
        ConnectionResetError("reset by peer"),
        TimeoutError(),
        EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
        SSLError(endpoint_url="https://127.0.0.1:1", error="reset"),
        ClientPayloadError("not all bytes came"),
        answered(503),
        answered(429),
        ClientError({"ResponseMetadata": {"HTTPStatusCode": 500}}, "GetObject"),
        RefreshError("the token's server did not answer"),
        type("ErrorOfAnotherClient", (Exception,), {})(),
    ],
)
def test_passing_errors_are_tried_again_after_growing_random_pauses(error: Exception, pauses: list[float]) -> None:
    assert retried("s3://b/k", "read", failing(*[error] * 4)) == "result"
    assert len(pauses) == 4
    assert all(0 <= pause <= 0.5 * 2.0**number for number, pause in enumerate(pauses, 1))
    assert len(set(pauses)) == 4


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("no such key"),
        PermissionError("AccessDenied"),
        OSError(errno.ENOSPC, "disk full"),
        OSError(errno.EROFS, "read-only"),
        NoCredentialsError(),
        NoRegionError(),
        answered(403),
        answered(501),
        ClientError({"ResponseMetadata": {"HTTPStatusCode": 400}}, "GetObject"),
        DefaultCredentialsError("no credentials"),
        ConfigError("wrong"),
        ValueError("a bug"),
    ],
)
def test_errors_for_good_are_raised_at_once(error: Exception, pauses: list[float]) -> None:
    with pytest.raises(PipelineError) as caught:
        retried("s3://b/k", "read", failing(error))
    assert pauses == []
    if not isinstance(error, PipelineError):
        assert isinstance(caught.value, StorageError)
        assert isinstance(caught.value, FileNotFoundError) == isinstance(error, FileNotFoundError)
        assert str(caught.value).startswith(f"s3://b/k cannot be read: {type(error).__name__}: ")
        assert caught.value.__cause__ is error


def test_an_interrupt_is_not_retried(pauses: list[float]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retried("s3://b/k", "read", interrupt)
    assert pauses == []


def test_a_retry_is_told_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    error = ConnectionError("https://h/k?X-Amz-Signature=CANARY reset")
    assert retried("https://u:CANARY@h/k", "read", failing(error, error)) == "result"
    assert [record.message for record in caplog.records] == [
        f"https://u:***@h/k: try {number}: ConnectionError: https://h/k?X-Amz-Signature=*** reset" for number in (1, 2)
    ]


def test_retrying_ends(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        pauses.append(seconds)
        now += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with pytest.raises(StorageError, match="s3://b/k cannot be read: ConnectionError: down"):
        retried("s3://b/k", "read", failing(*[ConnectionError("down")] * 10_000))
    assert RETRY_S - 20 < now <= RETRY_S
    assert max(pauses) <= 20


class Remote(io.BytesIO):
    """A file whose connection breaks after so many bytes, or says nothing more."""

    def __init__(self, num_bytes: int, silently: bool):
        super().__init__(BYTES)
        self.size = len(BYTES)
        self._left, self._silently = num_bytes, silently

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(min(size or 0, max(self._left, 0)) if self._silently else size)
        self._left -= len(data)
        if self._left < 0 and not self._silently:
            raise ConnectionResetError("reset by peer")
        return data


@pytest.mark.parametrize("silently", [False, True])
def test_a_broken_connection_is_opened_again_where_it_broke(silently: bool, pauses: list[float]) -> None:
    sizes = iter([1000, 3000, 0, 5000])
    opened: list[Any] = []

    def open_file() -> Remote:
        opened.append(Remote(next(sizes, len(BYTES)), silently))
        return opened[-1]

    with io.BufferedReader(RetryingStream("s3://b/k", open_file), 512) as stream:
        assert stream.read() == BYTES
        stream.seek(-10, io.SEEK_END)
        assert stream.read() == BYTES[-10:]
        stream.seek(7)
        assert stream.read(3) == BYTES[7:10]
    assert len(opened) > 3
    assert pauses
