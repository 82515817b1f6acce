"""A storage as bad as it gets: a proxy before an S3 server that lets a seeded share of the requests go wrong."""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from urllib.parse import urlsplit

FAULTS = ("slow down", "reset in mid-body", "truncated body", "latency", "no answer")
_LATENCY_S = 0.3
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultyProxy:
    """Between a client and the server at `upstream`. `share` of the requests meet one of `FAULTS`."""

    def __init__(self, upstream: str, seed: int, share: float):
        self._upstream = urlsplit(upstream).netloc
        self._random = random.Random(seed)
        self._kinds = cycle(FAULTS)
        self._share = share
        self._lock = threading.Lock()
        self._down_until = 0.0
        self.denied = ""
        """Requests whose path contains this word are refused for want of permission."""
        self.requests: Counter[str] = Counter()
        """By path."""
        self.faults: Counter[str] = Counter()
        """By kind."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator["FaultyProxy"]:
        """Serve for the block."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def go_down(self, seconds: float) -> None:
        """Answer nobody for so long."""
        self._down_until = time.monotonic() + seconds

    def fate(self, path: str) -> str:
        """What becomes of the next request: a fault, or nothing of the kind."""
        with self._lock:
            self.requests[path] += 1
            if self.denied and self.denied in path:
                return "denied"
            drawn = next(self._kinds) if self._random.random() < self._share else ""
            fault = "outage" if time.monotonic() < self._down_until else drawn
            if fault:
                self.faults[fault] += 1
            return fault

    def forward(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        """The server's status, headers and body."""
        length = int(request.headers.get("Content-Length", 0))
        connection = HTTPConnection(self._upstream, timeout=60)
        try:
            connection.request(request.command, request.path, request.rfile.read(length), dict(request.headers))
            answer = connection.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            if request.command == "HEAD":
                headers["Content-Length"] = answer.getheader("Content-Length") or "0"
            return answer.status, headers, answer.read()
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                fate = proxy.fate(self.path)
                if fate in ("no answer", "outage"):
                    self._hang_up()
                elif fate == "slow down":
                    self._skip_body()
                    self._answer(503, {}, _SLOW_DOWN)
                elif fate == "denied":
                    self._skip_body()
                    self._answer(403, {}, DENIED)
                else:
                    time.sleep(_LATENCY_S * (fate == "latency"))
                    self._pass_on(cut=fate if "body" in fate else "")

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def _pass_on(self, cut: str) -> None:
                status, headers, body = proxy.forward(self)
                if cut and len(body) > 1:
                    self._answer(status, headers, body[: len(body) // 2], promised=len(body))
                    self._hang_up(reset=cut == "reset in mid-body")
                else:
                    self._answer(status, headers, body)

            def _skip_body(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _answer(self, status: int, headers: dict[str, str], body: bytes, promised: int | None = None) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body) if promised is None else promised))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def _hang_up(self, reset: bool = False) -> None:
                if reset:  # an abort, as when the machine at the other end is gone
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                """Tests need no log."""

        return Handler
