"""Who may ask the server, and what every answer says to the browser.

The address that is printed holds a random token, which is exchanged for a cookie. Whoever has neither is refused: other
users of the machine, and pages of other sites that a browser shows. The name in the request's header `Host` must be
this machine's own, since a foreign name may be made to lead here.
"""

import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_TOKEN_BYTES = 32
_ENTRANCE = "/enter/"

_HEADERS = {
    "Cache-Control": "private, no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The policy of an answer that has none of its own."""
_LEADS_ON = """<!doctype html>
<html lang="en"><head><title>dr-pipeline</title><meta http-equiv="refresh" content="0; url=/"></head>
<body><p><a href="/">The page</a></p></body></html>
"""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """Lets requests pass that come from the browser of the user who started the server."""

    def __init__(self, port: int):
        self._token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._hosts = {f"{name}:{port}" for name in _NAMES}
        self._cookie = f"dr_pipeline_{port}"  # cookies of one host name are those of all its ports
        self.address = f"http://{HOST}:{port}{_ENTRANCE}{self._token}"
        """Whoever opens it may ask."""

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer, or refuse, one request; every answer has the headers that restrict what a browser does with it."""
        try:
            response = await self._answer(request, handler)
        except web.HTTPException as error:
            response = error
        response.headers.update(_HEADERS)
        response.headers.setdefault("Content-Security-Policy", _NOTHING)
        if isinstance(response, web.HTTPException):
            raise response
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.host not in self._hosts:
            raise web.HTTPForbidden(text="This server answers under its own address only.")
        if request.path.startswith(_ENTRANCE):
            return self._enter(request.path.removeprefix(_ENTRANCE))
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise web.HTTPForbidden(text="This server does not answer pages of other sites.")
        if not self._is_token(request.cookies.get(self._cookie, "")):
            raise web.HTTPForbidden(
                text="Open the address that dr-pipeline printed: it holds a token, which is missing."
            )
        return await handler(request)

    def _enter(self, token: str) -> web.StreamResponse:
        """Give the cookie for the token, and lead to the page, so that the token is in no address that is shared.

        No redirect leads there: after a click on the address in another page, as of a terminal in the browser, it would
        be that page's request, which has no cookie.
        """
        if not self._is_token(token):
            raise web.HTTPForbidden(text="This is not the token of this server: open the address that it printed.")
        response = web.Response(text=_LEADS_ON, content_type="text/html")
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="Strict", path="/")
        return response

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(errors="replace"), self._token.encode())
