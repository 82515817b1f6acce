"""Prefetched results come in order and not too far ahead; the shared pool runs the calls of earlier shards first."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from dr_pipeline.reinforce import threads
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.reinforce.threads import Prefetch, PriorityThreads, Turn, ahead
from tests.waiting import wait_until


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Source:
    """Numbers, and how many of them were taken on which thread."""

    def __init__(self) -> None:
        self.taken = 0
        self.is_closed = False
        self.thread = 0

    def numbers(self, count: int, fail_at: int | None = None) -> Iterator[int]:
        self.thread = threading.get_ident()
        try:
            for number in range(count):
                if number == fail_at:
                    raise OSError(f"at {number}")
                self.taken += 1
                yield number
        finally:
            self.is_closed = True
            assert threading.get_ident() == self.thread, "a generator is closed on the thread that ran it"


def test_results_come_in_order_where_later_ones_are_ready_first(pool: ThreadPoolExecutor) -> None:
    is_made = [threading.Event() for _ in range(12)]

    def slow_when_even(number: int) -> int:
        if number % 2 == 0:
            is_made[number + 1].wait()
        is_made[number].set()
        return number

    with Prefetch(pool, slow_when_even, range(12), depth=4) as ahead:
        assert list(ahead) == list(range(12))


def test_at_most_depth_results_are_computed_ahead_of_a_busy_consumer(pool: ThreadPoolExecutor) -> None:
    source = Source()
    with Prefetch(pool, lambda number: number, source.numbers(100), depth=3) as ahead:
        next(ahead)
        wait_until(lambda: source.taken >= 4)
    assert source.taken == 4, "one was consumed, three more are ahead"
    assert source.is_closed
    assert source.thread != threading.get_ident()


def test_the_function_runs_while_the_consumer_does(pool: ThreadPoolExecutor) -> None:
    """Each waits for the other to have started: one after the other they would never end."""
    meeting = threading.Barrier(2)

    def meet(number: int) -> int:
        if number == 1:
            meeting.wait()
        return number

    with Prefetch(pool, meet, range(3), depth=2) as ahead:
        assert next(ahead) == 0
        meeting.wait()
        assert list(ahead) == [1, 2]


def test_an_error_of_the_function_comes_in_its_place_and_stops_the_source(pool: ThreadPoolExecutor) -> None:
    def fail_at_two(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    source = Source()
    with Prefetch(pool, fail_at_two, source.numbers(100), depth=2) as ahead:
        assert [next(ahead), next(ahead)] == [0, 1]
        with pytest.raises(ValueError, match="two"):
            next(ahead)
    assert source.is_closed
    assert source.taken < 10


def test_an_error_of_the_source_comes_after_its_results(pool: ThreadPoolExecutor) -> None:
    with Prefetch(pool, abs, Source().numbers(9, fail_at=3), depth=8) as ahead:
        assert [next(ahead) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="at 3"):
            next(ahead)


def test_who_asks_again_after_the_end_gets_the_end_again(pool: ThreadPoolExecutor) -> None:
    with Prefetch(pool, abs, range(1), depth=2) as ahead:
        assert list(ahead) == [0]
        assert list(ahead) == []
    with Prefetch(pool, abs, Source().numbers(9, fail_at=0), depth=2) as ahead:
        for _ in range(2):
            with pytest.raises(OSError, match="at 0"):
                next(ahead)


def test_chained_stages_stop_together(pool: ThreadPoolExecutor) -> None:
    source = Source()
    with (
        Prefetch(pool, lambda number: number, source.numbers(1000), depth=2) as first,
        Prefetch(pool, lambda number: -number, first, depth=2) as second,
    ):
        assert [next(second), next(second)] == [0, -1]
    assert source.is_closed
    assert source.taken < 20


class Clock:
    """A clock that a test moves on; it counts how often each thread has read it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reads: Counter[int] = Counter()

    def __call__(self) -> float:
        self.reads[threading.get_ident()] += 1
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(threads.time, "perf_counter", clock)
    return clock


def test_starved_seconds_are_those_that_the_consumer_waited(pool: ThreadPoolExecutor, clock: Clock) -> None:
    consumer = threading.get_ident()

    def slow(number: int) -> None:
        """Takes a second while the consumer, who reads the clock before and after each result, waits for it."""
        wait_until(lambda: clock.reads[consumer] == 2 * number + 1)
        clock.now += 1

    with Prefetch(pool, slow, range(5), depth=1) as starved:
        list(starved)
    assert starved.starved_seconds == 5


def test_blocked_seconds_are_those_that_the_items_waited(pool: ThreadPoolExecutor, clock: Clock) -> None:
    with Prefetch(pool, lambda number: number, range(5), depth=1) as full:
        for number in full:
            if number < 4:  # the next one is there, and what takes it has read the clock to wait for room behind it
                wait_until(lambda: clock.reads[full._thread.ident or 0] == 2 * number + 5)  # noqa: B023
                clock.now += 1
    assert full.blocked_seconds == 4
    assert full.starved_seconds == 0


def test_calls_of_an_earlier_shard_run_first_whoever_submitted_first() -> None:
    pool = PriorityThreads(1)
    first, second = pool.for_shard(), pool.for_shard()
    blocked, begun = threading.Event(), threading.Event()
    order: list[str] = []

    def block() -> None:
        begun.set()
        blocked.wait()

    blocker = second.submit(block)
    begun.wait()
    later = [second.submit(order.append, f"second {number}") for number in range(2)]
    earlier = [first.submit(order.append, f"first {number}") for number in range(2)]
    blocked.set()
    for future in (blocker, *later, *earlier):
        future.result()
    assert order == ["first 0", "first 1", "second 0", "second 1"]


def test_futures_give_results_and_errors_and_can_be_cancelled() -> None:
    pool = PriorityThreads(1)
    shard = pool.for_shard()
    blocked = threading.Event()
    assert shard.submit(divmod, 7, 2).result() == (3, 1)
    with pytest.raises(ZeroDivisionError):
        shard.submit(divmod, 7, 0).result()
    blocker, cancelled = shard.submit(blocked.wait), shard.submit(divmod, 1, 1)
    assert cancelled.cancel()
    blocked.set()
    assert blocker.result()
    with pytest.raises(CancelledError):
        cancelled.result()
    assert shard.submit(divmod, 9, 2).result() == (4, 1)


def test_items_are_computed_ahead_on_a_thread_of_their_own() -> None:
    source = Source()
    with ahead(source.numbers(100), depth=3) as items:
        assert next(items) == 0
        wait_until(lambda: source.taken >= 4)
    assert source.taken == 4
    assert source.is_closed
    assert source.thread != threading.get_ident()


def test_one_shard_at_a_time_has_a_stage_and_a_shard_without_items_lets_others_pass() -> None:
    turn, stats = Turn(), [ShardStats(), ShardStats()]
    with ThreadPoolExecutor(2) as pool:
        no_item_yet, taken = threading.Event(), []

        def late() -> Iterator[int]:
            no_item_yet.wait()
            yield 1

        def use(items: Iterator[int], of: ShardStats) -> None:
            with turn.of(items, of) as own:
                taken.extend(own)

        waiting = pool.submit(use, late(), stats[0])
        with turn.of(iter([7, 8]), stats[1]) as items:
            no_item_yet.set()
            taken += list(items)
            assert not waiting.done()
        waiting.result()
    assert taken == [7, 8, 1]
    assert stats[0]._waited["turn"] > 0


def test_a_turn_ends_with_an_error() -> None:
    turn = Turn()
    for _ in range(2):
        with pytest.raises(OSError, match="broken"), turn.of([1], ShardStats()):
            raise OSError("broken")
