"""Requests to an HTTP endpoint that answers in JSON: so many at once, and again where it was busy or broken."""

import asyncio
import json
import random
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from dr_pipeline.errors import ConfigError
from dr_pipeline.models.protocol import Usage
from dr_pipeline.redaction import without_secrets

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

_BUSY = (408, 425, 429)
"""Statuses that ask to come again, beside those of the server's own faults (5xx)."""
_ELSEWHERE = (301, 302, 303, 307, 308)
_LONGEST_BACKOFF_S = 30.0
_CONNECT_S = 15.0
_LARGEST_ANSWER_BYTES = 16 << 20
_LONGEST_QUOTE = 200


class RequestFailed(Exception):  # noqa: N818  (a verdict on one request)
    """A request failed for good. Its words may be stored."""

    def __init__(self, message: str):
        super().__init__(without_secrets(message))


class _AgainLater(Exception):  # noqa: N818  (it ends an attempt, and is no failure yet)
    """An attempt failed in a way that may pass. `wait_s`: the seconds that the endpoint asks for, or 0."""

    def __init__(self, message: str, wait_s: float = 0.0):
        super().__init__(message)
        self.wait_s = wait_s


class HttpClient:
    """POSTs JSON to one address, at most `max_in_flight` requests at once. All methods run on one event loop."""

    def __init__(self, url: str, api_key: str, max_in_flight: int, timeout_s: float, retries: int, backoff_s: float):
        """`timeout_s` bounds an attempt, `backoff_s` is waited before the first retry, and twice as long each time."""
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url {url!r} is no address: write http://HOST:PORT/v1, or https://…")
        self._url = url
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._slots = asyncio.Semaphore(max_in_flight)
        self._max_in_flight = max_in_flight
        self._timeout_s, self._retries, self._backoff_s = timeout_s, retries, backoff_s
        self._session: ClientSession | None = None
        self._random = random.Random()

    async def post(self, data: bytes, usage: Usage) -> dict[str, Any]:
        """The answer to a request, which is counted in `usage`. Raises RequestFailed once it has failed for good."""
        async with self._slots:
            started = time.monotonic()
            for attempt in range(self._retries + 1):
                usage.requests += 1
                usage.retries += attempt > 0
                try:
                    return await self._try(data)
                except _AgainLater as problem:
                    said, wait_s = str(problem), problem.wait_s
                if attempt < self._retries:
                    # Spread, so that many requests do not come again together.
                    backoff_s = min(self._backoff_s * 2**attempt, _LONGEST_BACKOFF_S)
                    wait_s = max(wait_s, backoff_s * self._random.uniform(0.5, 1.0))
                    await asyncio.sleep(wait_s)
            seconds = time.monotonic() - started
            attempts = f"{self._retries + 1} attempts" if self._retries else "one attempt"
            raise RequestFailed(f"{self._url}: {said} ({attempts} in {seconds:.0f} s)")

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def _try(self, data: bytes) -> dict[str, Any]:
        """One attempt. Raises _AgainLater where another one may succeed, else RequestFailed."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_in_flight),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=_CONNECT_S),
                headers=self._headers,
            )
        try:
            async with self._session.post(self._url, data=data, allow_redirects=False) as response:
                return await self._read(response)
        except aiohttp.ConnectionTimeoutError as error:
            raise _AgainLater(f"no connection within {_CONNECT_S:g} s") from error
        except TimeoutError as error:
            raise RequestFailed(f"{self._url}: no answer within timeout_s = {self._timeout_s:g}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _AgainLater(f"the connection broke: {type(error).__name__}: {error}") from error

    async def _read(self, response: "ClientResponse") -> dict[str, Any]:
        text = bytearray()
        async for part in response.content.iter_any():
            text += part
            if len(text) > _LARGEST_ANSWER_BYTES:
                raise RequestFailed(f"{self._url}: the answer has more than {_LARGEST_ANSWER_BYTES} bytes")
        if response.status in _BUSY or response.status >= 500:
            wait_s = _retry_after(response.headers.get("Retry-After", ""))
            if wait_s > self._timeout_s:
                raise RequestFailed(f"{self._url}: HTTP {response.status}: asks to come again in {wait_s:.0f} s")
            raise _AgainLater(f"HTTP {response.status}: {_quote(text)}", wait_s)
        if response.status in _ELSEWHERE and "Location" in response.headers:  # not followed: the key is for this host
            target = response.headers["Location"]
            raise RequestFailed(
                f"{self._url}: HTTP {response.status} to {target:.200}: write that address, up to /chat/completions, "
                "as connection.base_url"
            )
        if response.status != 200:
            raise RequestFailed(f"{self._url}: HTTP {response.status}: {_quote(text)}")
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RequestFailed(f"{self._url}: the answer is not JSON: {_quote(text)}") from error
        if not isinstance(answer, dict):
            raise RequestFailed(f"{self._url}: the answer is no JSON object: {_quote(text)}")
        return answer


def _retry_after(value: str) -> float:
    """The seconds that a header asks for, as a number or a date; 0 where it says neither."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _quote(text: bytes | bytearray) -> str:
    """The beginning of an answer, on one line."""
    return " ".join(bytes(text[: 4 * _LONGEST_QUOTE]).decode(errors="replace").split())[:_LONGEST_QUOTE] or "no words"
