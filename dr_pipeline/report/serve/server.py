"""The server: what it answers, from the address that it tells to the interrupt that ends it.

Requests name shards and samples by their places, or by names that are looked up in the listing: no part of a
request becomes the name of a file. What cannot be had is answered with a `problem` in words.
"""

import asyncio
import logging
import re
import socket
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.redaction import without_secrets_in
from dr_pipeline.report.dataset_reader import DatasetReader
from dr_pipeline.report.look.look import served_page
from dr_pipeline.report.page.frame import Page, content_policy, environment, render_page
from dr_pipeline.report.serve.extremes import Order, rank
from dr_pipeline.report.serve.gate import HOST, Gate
from dr_pipeline.report.serve.shelf import Drawn, Shelf
from dr_pipeline.report.serve.walk import PAGE_SAMPLES, Cursor, SampleQuery, Walker
from dr_pipeline.storage import Storage

_THREADS = 4
_MOST_DRAWN = 256
"""Samples whose pictures are kept."""
_MOST_NAMES = 50
_MOST_PROBLEMS = 5
_SHUTDOWN_SECONDS = 0.5
_NUMBER = "[0-9]{1,9}"
_CURSOR = re.compile(rf"({_NUMBER})\.({_NUMBER})")

Value = TypeVar("Value")


def serve(uri: str, storage: Storage, port: int, key: str | None, announce: Callable[[str], None]) -> None:
    """Serve the page of a dataset, or of one tar, until an interrupt, which is raised on.

    `port`: 0 for a free one; `key`: a sample at which the page opens; `announce` is told the address.

    Raises ConfigError where there is no shard, the port cannot be had, or jinja2 is missing; ShardError or StorageError
    where the manifest cannot be read.
    """
    environment()  # before the manifest is read
    reader = DatasetReader(uri, storage)
    server = DatasetServer(reader, served_page(reader, key))
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise ConfigError(f"port {port} cannot be had: {error}; choose another by --port, or leave it out") from error
    asyncio.run(_serve(server, listening, announce))


async def _serve(server: "DatasetServer", listening: socket.socket, announce: Callable[[str], None]) -> None:
    gate = Gate(listening.getsockname()[1])
    app = web.Application(middlewares=[gate.middleware])
    app.add_routes(server.routes)
    log = logging.getLogger(__name__)
    log.addFilter(_is_no_bad_request)
    runner = web.AppRunner(
        app, access_log=None, logger=log, shutdown_timeout=_SHUTDOWN_SECONDS, handler_cancellation=True
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        announce(gate.address)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
        server.close()


class DatasetServer:
    """What is answered about one dataset. Threads read it, so that one long answer does not hold up the others."""

    def __init__(self, reader: DatasetReader, page: Page):
        self._reader = reader
        self._html = render_page(page)
        self._policy = f"{content_policy(page)}; frame-ancestors 'none'"
        self._walker = Walker(reader)
        self._shelf = Shelf(reader, self._walker)
        self._pool = ThreadPoolExecutor(_THREADS)
        self._drawn: OrderedDict[Cursor, asyncio.Task[Drawn]] = OrderedDict()

    @property
    def routes(self) -> list[web.RouteDef]:
        """The addresses that there are."""
        place = f"{{shard:{_NUMBER}}}/{{sample:{_NUMBER}}}"
        return [
            web.get("/", self.page),
            web.get("/samples", self.samples),
            web.get("/sample", self.sample),
            web.get("/ranking", self.ranking),
            web.get("/shards", self.shards),
            web.get(f"/{{which:image|views}}/{place}", self.picture),
        ]

    def close(self) -> None:
        """Start no further work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def page(self, request: web.Request) -> web.Response:
        """The page, which asks for all else."""
        headers = {"Content-Security-Policy": self._policy}
        return web.Response(text=self._html, content_type="text/html", headers=headers)

    async def samples(self, request: web.Request) -> web.Response:
        """The next samples that hold all `words`, of `shard` or of all, from the cursor `at`, SHARD.SAMPLE, on; up to
        `most`.
        """

        def find() -> dict[str, Any]:
            shard = request.query.get("shard", "")
            query = SampleQuery.of_text(request.query.get("words", ""), request.query.get("of", ""), bool(shard))
            at = Cursor(self._reader.place(shard) if shard else 0, 0)
            if given := _CURSOR.fullmatch(request.query.get("at", "")):
                there = Cursor(*map(int, given.groups()))
                at = there if there.shard < len(self._reader.shards) else at
            stretch = self._walker.walk(query, at, _number(request, "most", PAGE_SAMPLES))
            return {
                "samples": [self._shelf.card(shown) for shown in stretch.samples],
                "next": stretch.next,
                "problems": stretch.problems[:_MOST_PROBLEMS],
            }

        return await self._answer(find)

    async def sample(self, request: web.Request) -> web.Response:
        """The sample `key`, of `shard` or of all, and how it was found; the search ends with whoever asked for it."""
        is_gone = Event()

        def find() -> dict[str, Any]:
            shard = request.query.get("shard", "")
            names = [self._reader.shards[self._reader.place(shard)]] if shard else self._reader.shards
            place, shown = self._reader.find(request.query.get("key", ""), names, is_gone.is_set)
            return {"samples": [self._shelf.card(shown)], "by_manifest": place.by_manifest}

        try:
            return await self._answer(find)
        finally:
            is_gone.set()

    async def ranking(self, request: web.Request) -> web.Response:
        """The extreme samples `by` a value, of the captions `of` a kind, of `shard` or of those from `first` on."""

        def find() -> dict[str, Any]:
            asked = request.query
            order = Order(asked.get("by", ""), asked.get("of", ""), asked.get("direction") == "down")
            if shard := asked.get("shard", ""):
                first, last = self._reader.place(shard), self._reader.place(shard) + 1
            else:
                first, last = min(_number(request, "first", 0), len(self._reader.shards) - 1), len(self._reader.shards)
            ranking = rank(self._reader, order, first, last)
            return {
                "samples": [one._asdict() for one in ranking.samples],
                "next": ranking.next,
                "problems": ranking.problems[:_MOST_PROBLEMS],
            }

        return await self._answer(find)

    async def shards(self, request: web.Request) -> web.Response:
        """Some names of shards that have the text `like` in them."""
        like = request.query.get("like", "").casefold()
        names = (name for name in self._reader.shards if like in name.casefold())
        return await self._answer(lambda: {"shards": list(islice(names, _MOST_NAMES))})

    async def picture(self, request: web.Request) -> web.Response:
        """The image of a sample, or its views side by side."""
        shard, sample = (int(request.match_info[name]) for name in ("shard", "sample"))
        if shard >= len(self._reader.shards):
            raise web.HTTPNotFound(text="There is no such shard.")
        at = Cursor(shard, sample)
        if at not in self._drawn:  # all requests for a picture of the sample wait together
            self._drawn[at] = asyncio.ensure_future(self._in_thread(lambda: self._shelf.draw(at)))
            while len(self._drawn) > _MOST_DRAWN:
                self._drawn.popitem(last=False)
        drawn = await asyncio.shield(self._drawn[at])
        is_of_views = request.match_info["which"] == "views"
        shown = (is_of_views and drawn.views) or drawn.image  # which may be a picture of why there are none
        return web.Response(body=shown, content_type="image/webp")

    async def _answer(self, find: Callable[[], dict[str, Any]]) -> web.Response:
        """What is found, or the problem, as JSON."""
        try:
            found = await self._in_thread(find)
        except PipelineError as error:
            found = {"problem": str(error)}
        return web.json_response(without_secrets_in(found))

    async def _in_thread(self, work: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _is_no_bad_request(record: logging.LogRecord) -> bool:
    """Whether a log's line is not about what is no HTTP: it quotes the request, which may hold the token."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _number(request: web.Request, name: str, default: int) -> int:
    """A number among the parameters of a request."""
    given = request.query.get(name, "")
    return int(given) if re.fullmatch(_NUMBER, given) else default
