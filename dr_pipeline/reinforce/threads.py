"""The threads that all shards in work share."""

import itertools
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from queue import PriorityQueue
from typing import Any


class PriorityThreads:
    """A thread pool that runs the calls of earlier shards first.

    The shard on the device came first: if all shards had an even share of the threads, the device would wait for it.
    """

    def __init__(self, num_threads: int):
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="host")
        self._waiting: PriorityQueue[tuple[int, int, Future, Callable[[], Any]]] = PriorityQueue()
        self._shards = itertools.count()
        self._calls = itertools.count()

    def for_shard(self) -> Executor:
        """The pool for a shard that comes now: its calls start when those of earlier shards have started."""
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
        except BaseException as error:  # the future's to raise
            future.set_exception(error)


class _ShardExecutor(Executor):
    """The pool as one shard sees it."""

    def __init__(self, submit: Callable[[Callable[[], Any]], Future]):
        self._submit = submit

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        return self._submit(partial(function, *args, **kwargs))
