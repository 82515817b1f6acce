"""The host's threads, which all shards in work share: the shard that came first goes first."""

import itertools
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from queue import PriorityQueue
from typing import Any


class HostThreads:
    """Shared evenly, threads would starve the shard that has the device for one that waits for it."""

    def __init__(self, num_threads: int):
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="host")
        self._waiting: PriorityQueue[tuple[int, int, Future, Callable[[], Any]]] = PriorityQueue()
        self._shards = itertools.count()
        self._calls = itertools.count()

    def for_shard(self) -> Executor:
        """The threads as a shard that comes now sees them: its calls run when earlier shards' have begun."""
        return _Lane(partial(self._submit, next(self._shards)))

    def _submit(self, shard: int, call: Callable[[], Any]) -> Future:
        future: Future = Future()
        self._waiting.put((shard, next(self._calls), future, call))
        self._pool.submit(self._run_first)
        return future

    def _run_first(self) -> None:
        """One for each call that waits, whichever of them is first by then."""
        *_, future, call = self._waiting.get()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(call())
        except BaseException as error:  # the future's to raise
            future.set_exception(error)


class _Lane(Executor):
    """One shard's."""

    def __init__(self, submit: Callable[[Callable[[], Any]], Future]):
        self._submit = submit

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        return self._submit(partial(function, *args, **kwargs))
