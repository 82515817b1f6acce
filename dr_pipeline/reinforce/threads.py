"""Threads of a worker: a stage that computes ahead of the next one, and a pool that all shards share."""

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from queue import PriorityQueue, SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from dr_pipeline.reinforce.stats import ShardStats

Item = TypeVar("Item")
Result = TypeVar("Result")


class Waiting:
    """How long one thread has waited, counted while it still does."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """In all, up to now."""
        since = self._since
        return self._seconds + (time.perf_counter() - since if since is not None else 0.0)

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        assert self._since is not None
        self._seconds, self._since = self._seconds + time.perf_counter() - self._since, None


class Prefetch(Iterator[Result], Generic[Item, Result]):
    """`map(function, items)`, computed ahead: `items` on a thread of its own, `function` on the executor's threads.

    Results come in the order of the items. At most `depth` of them wait for the consumer or are in work, which bounds
    the memory: a slow consumer stops the stages before it. An exception of `items` or `function` reaches the consumer
    in the place of its result. Use as a context: on exit everything stops, after the items that are in work.
    """

    def __init__(self, executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], depth: int):
        self._blocked, self._starved = Waiting(), Waiting()
        self._room = threading.Semaphore(depth)
        self._results: SimpleQueue[Future[Result]] = SimpleQueue()
        self._end: Future[Result] = Future()
        self._stopping = False
        self._thread = threading.Thread(target=self._feed, args=(executor, function, items), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stopping = True
        self._room.release()
        self._thread.join()
        while not self._results.empty():
            self._results.get().cancel()

    def __next__(self) -> Result:
        try:
            with self._starved:
                made = self._results.get()
                if made is self._end:
                    self._results.put(made)  # for the next call
                return made.result()
        finally:
            self._room.release()

    @property
    def blocked_seconds(self) -> float:
        """How long `items` have waited for the consumer."""
        return self._blocked.seconds

    @property
    def starved_seconds(self) -> float:
        """How long the consumer has waited for results."""
        return self._starved.seconds

    def _feed(self, executor: Executor, function: Callable[[Item], Result], items: Iterable[Item]) -> None:
        try:
            self._wait_for_room()
            for item in items:
                self._results.put(executor.submit(function, item))
                self._wait_for_room()
                if self._stopping:
                    break
            self._end.set_exception(StopIteration())
        except BaseException as error:  # the consumer handles it
            self._end.set_exception(error)
        finally:
            self._results.put(self._end)
            if isinstance(items, Generator):
                items.close()  # here, on the thread that ran it

    def _wait_for_room(self) -> None:
        with self._blocked:
            self._room.acquire()


def ahead(items: Iterable[Item], depth: int) -> Prefetch[Item, Item]:
    """`items`, computed ahead on a thread of their own."""
    return Prefetch(_Here(), lambda item: item, items, depth)


class _Here(Executor):
    """Runs calls at once, on the thread that submits them."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_result(function(*args, **kwargs))
        return future


class Turn:
    """The use of a stage, which one shard at a time has, from its first item to its last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def of(self, items: Iterable[Item], stats: ShardStats) -> Iterator[Iterator[Item]]:
        """Wait for the turn and keep it; gives a shard's items.

        The first item comes before: a shard that has none yet must not keep the others waiting.
        """
        items = iter(items)
        first = list(islice(items, 1))
        started = time.perf_counter()
        with self._lock:
            stats.waited("turn", time.perf_counter() - started)
            yield chain(first, items)


class PriorityThreads:
    """A thread pool that runs the calls of earlier shards first.

    The device is the earliest shard's: if all shards had an even share of the threads, the device would wait for it.
    """

    def __init__(self, num_threads: int):
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="host")
        self._waiting: PriorityQueue[tuple[int, int, Future, Callable[[], Any]]] = PriorityQueue()
        self._shards = itertools.count()
        self._calls = itertools.count()

    def for_shard(self) -> Executor:
        """The pool for the next shard: its calls start when those of earlier shards have started."""
        return _ShardExecutor(partial(self._submit, next(self._shards)))

    def _submit(self, shard: int, call: Callable[[], Any]) -> Future:
        future: Future = Future()
        self._waiting.put((shard, next(self._calls), future, call))
        self._pool.submit(self._run_first)
        return future

    def _run_first(self) -> None:
        """Run the first of the waiting calls. The pool runs this once for each of them."""
        *_, future, call = self._waiting.get()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(call())
        except BaseException as error:  # the future raises it
            future.set_exception(error)


class _ShardExecutor(Executor):
    """The pool with the priority of one shard."""

    def __init__(self, submit: Callable[[Callable[[], Any]], Future]):
        self._submit = submit

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        return self._submit(partial(function, *args, **kwargs))
