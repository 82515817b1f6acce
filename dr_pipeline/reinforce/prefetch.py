"""Prefetching: a stage computes its next results on other threads while the stage after it uses the last ones."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Prefetch(Iterator[Result], Generic[Item, Result]):
    """`map(function, items)` in order: `items` on a thread of its own, `function` on the executor's threads.

    At most `depth` results wait for the consumer or are in work, which bounds the memory: a slow consumer stops the
    stages before it. An exception of `items` or `function` reaches the consumer at its place. Use as a context: on exit
    everything stops, after the item that is in work.
    """

    def __init__(self, executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], depth: int):
        self.blocked_seconds = 0.0
        """How long `items` waited for the consumer."""
        self.starved_seconds = 0.0
        """How long the consumer waited for results."""
        self._room = threading.Semaphore(depth)
        self._results: SimpleQueue[Future[Result]] = SimpleQueue()
        self._end: Future | None = None
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
        started = time.perf_counter()
        try:
            made = self._results.get()
            if made is self._end:
                self._results.put(made)  # who asks again is told again
            return made.result()
        finally:
            self.starved_seconds += time.perf_counter() - started
            self._room.release()

    def _feed(self, executor: Executor, function: Callable[[Item], Result], items: Iterable[Item]) -> None:
        try:
            self._wait_for_room()
            for item in items:
                self._results.put(executor.submit(function, item))
                self._wait_for_room()
                if self._stopping:
                    break
            self._end_with(StopIteration())
        except BaseException as error:  # the consumer's to handle
            self._end_with(error)
        finally:
            if isinstance(items, Generator):
                items.close()  # here, on the thread that ran it

    def _wait_for_room(self) -> None:
        started = time.perf_counter()
        self._room.acquire()
        self.blocked_seconds += time.perf_counter() - started

    def _end_with(self, error: BaseException) -> None:
        self._end = Future()
        self._end.set_exception(error)
        self._results.put(self._end)
