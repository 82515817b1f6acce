"""Captions by request: those of all samples of all shards that a worker has in work are asked for at once.

A sample needs no batch here. It is asked for as soon as it comes, waits for its own answers alone, and leaves in the
order in which it came.
"""

import asyncio
import io
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from PIL import Image

from dr_pipeline.config.cards import CaptionerCard, RewriterCard
from dr_pipeline.config.prompts import fill_in
from dr_pipeline.dataset.caption_faults import is_blank, is_degenerate
from dr_pipeline.dataset.sample import Sample, check_text
from dr_pipeline.errors import ModelError, PipelineError, SampleSkipped, ShardError
from dr_pipeline.models.by_request import ReadyRequestCaptioner
from dr_pipeline.models.protocol import WriteRequest
from dr_pipeline.reinforce.captions import caption_stream
from dr_pipeline.reinforce.in_flight import InFlight
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.reinforce.threads import Prefetch
from dr_pipeline.views.seeding import Stream
from dr_pipeline.words import plural

REQUEST_FAILED = "caption request failed"
"""The reason to skip a sample whose captions could not be had."""

_WINDOW = 4
"""Samples of a shard in this stage for each request at once: those behind a late answer are done meanwhile."""
_SEEDS = 2**31
_MOST_IN_A_ROW = 32
"""So many failed samples with none between that did not fail, and the endpoint is taken for lost."""


class RequestStage:
    """The job's captioners that write by request, on an event loop of their own that all shards share."""

    def __init__(self, captioners: Sequence[ReadyRequestCaptioner], seed: int):
        self._captioners = captioners
        self._seed = seed
        self._depth = _WINDOW * max((one.captioner.max_in_flight for one in captioners), default=0)
        self._failed_in_a_row: dict[str, int] = {}
        """By card."""
        self._loop = _LoopThread(self._close) if captioners else None

    def check(self) -> None:
        """Ask each card's captioner for one text about a blank image. Raises ModelError naming the card."""
        blank = io.BytesIO()
        Image.new("RGB", (64, 64), "white").save(blank, "PNG")
        for card, captioner in self._captioners:
            sample = Sample("check", {"png": blank.getvalue()}, caption="a blank image")
            request = self._request(card, sample, [caption_stream(self._seed, card, sample.key, 0)])
            assert self._loop is not None
            try:
                written = self._loop.submit(captioner.write(request)).result()
            except ModelError as error:
                raise ModelError(f"card {card.name}: {error}") from error
            if written.failure:
                raise ModelError(f"card {card.name}: a first request failed: {written.failure}")

    def for_shard(self, stats: ShardStats) -> "ShardRequests":
        """The requests of the next shard."""
        return ShardRequests(self._loop, partial(self._write, stats=stats), self._depth)

    def stop(self) -> None:
        """Cancel all requests: the shards that wait for one fail. Nothing can be asked for any more."""
        if self._loop:
            self._loop.stop()

    async def _close(self) -> None:
        for captioner in {id(one.captioner): one.captioner for one in self._captioners}.values():
            await captioner.close()

    async def _write(self, item: InFlight, stats: ShardStats) -> InFlight:
        """Fill in a sample's captions, or its `skip`. Raises ShardError naming captioner and key."""
        sample = item.sample
        for card, captioner in () if sample.skip else self._captioners:
            ask = partial(self._texts, card, captioner.write, sample, stats=stats)
            try:
                with stats.stage("request"):
                    sample.synthetic[card.caption_key] = await ask()
                self._failed_in_a_row[card.name] = 0
                stats.count("captions_drawn", card.num_captions)
            except SampleSkipped as skip:
                self._fail(card, sample.key, skip)
                sample.skip = skip
                return InFlight(sample)
            except ModelError as error:
                raise ShardError(f"captioner {card.name}: {error} (sample {sample.key})") from error
        return item

    def _fail(self, card: CaptionerCard, key: str, skip: SampleSkipped) -> None:
        """Count a failed sample. Raises ShardError where the card says so, or where the endpoint is lost."""
        self._failed_in_a_row[card.name] = in_a_row = self._failed_in_a_row.get(card.name, 0) + 1
        if card.on_failure == "fail":
            raise ShardError(f"captioner {card.name}: {skip} (sample {key})") from skip
        if in_a_row >= _MOST_IN_A_ROW:
            raise ShardError(
                f"captioner {card.name}: the requests of {plural(in_a_row, 'sample')} in a row failed; the last "
                f"one, of {key}: {skip.detail}"
            ) from skip

    async def _texts(
        self, card: CaptionerCard, write: Callable[[WriteRequest], Awaitable[Any]], sample: Sample, stats: ShardStats
    ) -> list[str]:
        """A card's captions of a sample; those that are blank or repeat themselves are drawn again, as the card says.

        Raises SampleSkipped where a request failed for good, or a caption is none that can be stored.
        """
        texts = [""] * card.num_captions
        for attempt in range(card.redraws + 1):
            poor = [index for index, text in enumerate(texts) if is_degenerate(text)]
            streams = [caption_stream(self._seed, card, sample.key, index, attempt) for index in poor]
            written = await write(self._request(card, sample, streams))
            stats.used(card, written.usage)
            if written.failure:
                raise SampleSkipped(REQUEST_FAILED, f"{card.name}: {written.failure}")
            if len(written.texts) != len(poor):
                raise ModelError(f"it wrote {plural(len(written.texts), 'text')} for {plural(len(poor), 'seed')}")
            for index, text in zip(poor, written.texts, strict=True):
                texts[index] = text
            if not any(map(is_degenerate, texts)):
                break
        for text in texts:
            _check(card, text)
        return texts

    def _request(self, card: CaptionerCard, sample: Sample, streams: Sequence[Stream]) -> WriteRequest:
        return WriteRequest(
            key=sample.key,
            image=None if isinstance(card, RewriterCard) else sample.image,
            prompt=fill_in(card.prompt or "", key=sample.key, alt_text=sample.caption),
            alt_text=sample.caption,
            seeds=tuple(stream.integer(_SEEDS) for stream in streams),
            sampling=card.sampling,
        )


class ShardRequests(Executor):
    """The requests of one shard: an executor that runs coroutine functions on the loop."""

    def __init__(self, loop: "_LoopThread | None", write: Callable[[InFlight], Any], depth: int):
        """`write`: the coroutine function that a sample passes through."""
        self._loop, self._write, self._depth = loop, write, depth
        self._pending: set[Future] = set()
        """The calls that have not ended."""
        self._ahead: Prefetch[InFlight, Any] | None = None

    def ahead(self, items: Iterable[InFlight]) -> AbstractContextManager[Iterator[InFlight]]:
        """The samples with their captions, in order; `items` as they are where nothing writes by request."""
        if self._loop is None:
            return nullcontext(iter(items))
        self._ahead = Prefetch(self, self._write, items, self._depth)
        return self._ahead

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Call a coroutine function on the loop → the future of its result."""
        assert self._loop is not None, "where nothing writes by request, nothing is submitted"
        future = self._loop.submit(function(*args, **kwargs))
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def cancel(self) -> None:
        """Cancel what is left: who waits for it goes on at once."""
        for future in [*self._pending]:
            future.cancel()

    @property
    def starved_seconds(self) -> float:
        """How long the stage behind waited for captions."""
        return self._ahead.starved_seconds if self._ahead else 0.0


class _LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self, close: Callable[[], Awaitable[None]]):
        """`close` runs on the loop once it has nothing else to do any more."""
        self._close = close
        self._lock = threading.Lock()
        self._is_stopped = False
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="requests", daemon=True).start()

    def submit(self, coroutine: Any) -> Future:
        """Run a coroutine → its future. Raises PipelineError once the loop is stopped."""
        with self._lock:
            if self._is_stopped:
                coroutine.close()
                raise PipelineError("stopped")
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self) -> None:
        """Cancel all that runs, and end the thread."""
        with self._lock:
            if not self._is_stopped:
                self._is_stopped = True
                asyncio.run_coroutine_threadsafe(self._end(), self._loop)

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._close()
        self._loop.call_soon(self._loop.stop)


def _check(card: CaptionerCard, text: str) -> None:
    """Raise SampleSkipped for a text that shows nothing or cannot be stored, and ModelError for what is no text."""
    if not isinstance(text, str):
        raise ModelError(f"it wrote {text!r:.60}, which is no text")
    if is_blank(text):
        raise SampleSkipped(REQUEST_FAILED, f"{card.name}: a blank text")
    try:
        check_text(text, "caption")
    except SampleSkipped as problem:
        raise SampleSkipped(REQUEST_FAILED, f"{card.name}: {problem}") from problem
