"""Calls of the shard that came first go first, whoever submitted first."""

import threading
from concurrent.futures import CancelledError

import pytest

from dr_pipeline.reinforce.threads import PriorityThreads


def test_an_earlier_shard_goes_first_and_a_later_one_gets_what_is_left() -> None:
    threads = PriorityThreads(1)
    first, second = threads.for_shard(), threads.for_shard()
    blocked, begun = threading.Event(), threading.Event()
    order: list[str] = []

    def block() -> None:
        begun.set()
        blocked.wait(10)

    blocker = second.submit(block)
    assert begun.wait(10)
    later = [second.submit(order.append, f"second {number}") for number in range(2)]
    earlier = [first.submit(order.append, f"first {number}") for number in range(2)]
    blocked.set()
    for future in (blocker, *later, *earlier):
        future.result(10)
    assert order == ["first 0", "first 1", "second 0", "second 1"]


def test_results_errors_and_cancellation_are_the_caller_s() -> None:
    threads = PriorityThreads(1)
    shard = threads.for_shard()
    blocked = threading.Event()
    assert shard.submit(divmod, 7, 2).result(10) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        shard.submit(divmod, 7, 0).result(10)
    blocker, cancelled = shard.submit(blocked.wait, 10), shard.submit(divmod, 1, 1)
    assert cancelled.cancel()
    blocked.set()
    assert blocker.result(10)
    with pytest.raises(CancelledError):
        cancelled.result(10)
    assert shard.submit(divmod, 9, 2).result(10) == (4, 1)
