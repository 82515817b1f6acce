"""An S3 server's answers to credentials with few rights: a proxy that refuses what their policy does not allow."""

from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from tests.faults.proxy import DENIED, FaultyProxy

_RIGHTS = {"GET": "read", "HEAD": "read", "PUT": "write", "POST": "write", "DELETE": "delete"}


class PolicedProxy(FaultyProxy):
    """Between a client and the server at `upstream`; `refused`: of `list`, `read`, `write` and `delete`."""

    def __init__(self, upstream: str, *refused: str):
        super().__init__(upstream, seed=0, share=0.0)
        self._refused = set(refused)

    def forward(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        """As S3 does: to those who may not list, an object that is not there is one that they may not read."""
        right = "list" if "list-type" in parse_qs(urlsplit(request.path).query) else _RIGHTS[request.command]
        status, headers, body = super().forward(request) if right not in self._refused else (403, {}, DENIED)
        if status == 404 and right == "read" and "list" in self._refused and b"NoSuchBucket" not in body:
            return 403, {}, DENIED
        if right in self._refused:
            request.rfile.read(int(request.headers.get("Content-Length", 0)))
        return status, headers, body
