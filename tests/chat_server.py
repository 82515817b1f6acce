"""A real server of chat completions on loopback, which can be slow, busy, broken or talk nonsense."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Body = dict[str, Any]
Answer = Callable[["ChatServer", Body], Awaitable[web.StreamResponse]]


@dataclass
class ChatServer:
    """What it was asked, and how it answers; a test sets `answer` for the requests to come."""

    base_url: str = ""
    bodies: list[Body] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    answer: Answer | None = None
    """None: at once, with a text that depends on the request alone."""

    async def respond(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await (self.answer or said)(self, body)
        finally:
            self.in_flight -= 1


def prompt_of(body: Body) -> str:
    """The words of a request."""
    return next(part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text")


def image_of(body: Body) -> str:
    """The data URL of a request's image, or ""."""
    parts = [part for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    return parts[0]["image_url"]["url"] if parts else ""


def completion(text: Any, **choice: Any) -> Body:
    """An answer of one choice, of 100 + 7 tokens."""
    message = {"role": "assistant", "content": text}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message, **choice}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107},
    }


async def said(_: ChatServer, body: Body) -> web.StreamResponse:
    """The default: what was asked, by which seed."""
    return web.json_response(completion(f"{prompt_of(body)}, seen as {body['seed']} of {len(image_of(body))}"))


def always(answer: Body | str, status: int = 200, **headers: str) -> Answer:
    """One answer to everything."""
    text = answer if isinstance(answer, str) else json.dumps(answer)

    async def respond(_: ChatServer, __: Body) -> web.StreamResponse:
        return web.Response(text=text, status=status, headers=headers)

    return respond


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other, the last one from then on."""
    left = list(answers)

    async def respond(server: ChatServer, body: Body) -> web.StreamResponse:
        return await (left.pop(0) if len(left) > 1 else left[0])(server, body)

    return respond


async def hang(_: ChatServer, __: Body) -> web.StreamResponse:
    """No answer, until the client goes away."""
    await asyncio.Event().wait()
    raise AssertionError


async def hang_up(_: ChatServer, __: Body) -> web.StreamResponse:
    """The connection breaks."""
    raise asyncio.CancelledError


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """The server, for the block; its handlers end when their client goes."""
    server, loop, ready = ChatServer(), asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    async def main() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", server.respond)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.base_url = f"http://{host}:{port}/v1"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
