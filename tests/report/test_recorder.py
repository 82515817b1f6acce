"""A run's rates, the time that is left, and what limits it, from what its workers say."""

import time

import pytest

from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardReport, ShardTask
from dr_pipeline.reinforce.tally import ShardProgress, Tally, WorkerProgress, WorkersProgress
from dr_pipeline.report import recorder as module
from dr_pipeline.report.recorder import Limit, Recorder, limit_of
from tests.conftest import make_job

TASKS = tuple(ShardTask(f"{index}.tar", f"in/{index}.tar", 1000 * (index + 1)) for index in range(4))
PLAN = Plan(make_job(), TASKS, ())


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", clock)
    monkeypatch.setattr(module.time, "time", time.time)
    return clock


def working(shard: str, share: float, num_written: int, **counts: float) -> WorkersProgress:
    shards = {shard: ShardProgress(share, num_written, {})}
    return WorkersProgress((WorkerProgress(None, 1.0, Tally(counts), shards),))


def test_the_time_that_is_left_is_told_before_the_first_shard_is_whole(clock: Clock) -> None:
    recorder = Recorder(PLAN)
    assert recorder.take(WorkersProgress(num_pending=1)).seconds_left is None
    clock.now += 600  # loading counts for no rate
    assert recorder.take(working("3.tar", 0.0, 0)).seconds_left is None
    clock.now += 50
    taken = recorder.take(working("3.tar", 0.25, 20))
    assert (taken.num_samples, taken.expected_samples) == (20, 200)
    assert taken.seconds_left == pytest.approx(9000 / (1000 / 50))
    assert taken.samples_per_second == taken.mean_samples_per_second == pytest.approx(0.4)


def test_rates_are_those_of_the_last_minutes_and_means_those_of_all(clock: Clock) -> None:
    recorder = Recorder(PLAN)
    recorder.take(working("0.tar", 0.0, 0))
    for step in range(1, 101):
        clock.now += 5
        taken = recorder.take(working("3.tar", step / 200, 10 * min(step, 50)))
    assert taken.samples_per_second == 0
    assert taken.mean_samples_per_second == pytest.approx(1.0)


def test_samples_of_a_shard_count_once_though_a_worker_s_answer_is_older_than_its_report(clock: Clock) -> None:
    recorder = Recorder(PLAN)
    recorder.take(working("0.tar", 0.9, 9))
    recorder.add(ShardReport("0.tar", "u", "done", "f", num_read=10, num_written=10, skipped={}))
    late = recorder.take(working("0.tar", 0.9, 9))
    assert (late.num_samples, late.num_done, late.expected_samples) == (10, 1, 100)


def test_a_run_that_ends_before_it_is_looked_at_has_rates(clock: Clock) -> None:
    recorder = Recorder(PLAN)
    taken = recorder.take(working("0.tar", 0.5, 6, worker_seconds=3.0, busy_seconds=1.5))
    assert taken.samples_per_second == taken.mean_samples_per_second == pytest.approx(2.0)
    assert taken.device_busy == pytest.approx(0.5)


def test_a_run_that_ends_before_its_workers_answer_has_rates(clock: Clock) -> None:
    recorder = Recorder(PLAN)
    clock.now += 5
    recorder.add(
        ShardReport("0.tar", "u", "done", "f", num_read=10, num_written=10, num_views=20, seconds={"total": 2.0})
    )
    taken = recorder.take(WorkersProgress(num_pending=1))
    assert (taken.samples_per_second, taken.views_per_second) == (5.0, 10.0)


def test_without_sizes_every_shard_is_as_much_work(clock: Clock) -> None:
    recorder = Recorder(Plan(make_job(), tuple(ShardTask(f"{i}.tar", "u", None) for i in range(4)), ()))
    recorder.take(working("0.tar", 0.0, 0))
    clock.now += 60
    recorder.add(ShardReport("0.tar", "u", "done", "f", num_read=10, num_written=10))
    assert recorder.take(WorkersProgress()).seconds_left == pytest.approx(180)


def test_what_workers_that_are_gone_have_done_still_counts(clock: Clock) -> None:
    recorder = Recorder(PLAN)
    recorder.take(working("0.tar", 0.0, 0, busy_seconds=0.0, worker_seconds=0.0))
    clock.now += 10
    gone = WorkersProgress(gone=Tally({"busy_seconds": 9.0, "worker_seconds": 10.0, "captions_drawn": 50}))
    taken = recorder.take(gone)
    assert taken.device_busy == pytest.approx(0.9)
    assert taken.num_captions == 50


ALL_THE_TIME = {"worker_seconds": 10.0, "core_seconds": 40.0, "shard_seconds": 20.0}


@pytest.mark.parametrize(
    ("counts", "limit"),
    [
        ({"busy_seconds": 9.5, "seconds.caption": 7.0, "seconds.embed_images": 1.0}, "captions on the device"),
        ({"busy_seconds": 9.5, "seconds.caption": 1.0, "seconds.embed_images": 0.1}, "embedding views on the device"),
        ({"busy_seconds": 9.5, "seconds.score": 9.0}, "scores on the device"),
        ({"busy_seconds": 3.5, "seconds.decode": 20.0, "seconds.render": 16.0}, "decoding on the cores"),
        ({"busy_seconds": 3.5, "seconds.read": 19.0}, "reading"),
        ({"busy_seconds": 3.5, "seconds.write": 9.0, "seconds.upload": 9.0}, "writing"),
        ({"busy_seconds": 3.5, "waited.requests": 19.0}, "the endpoint"),
        ({"seconds.embed_texts": 9.5}, "embedding texts on the device"),
    ],
)
def test_a_run_is_limited_by_what_is_in_use_nearly_all_of_the_time(counts: dict[str, float], limit: str) -> None:
    found = limit_of(Tally({**ALL_THE_TIME, **counts}))
    assert found is not None
    assert found.by == limit
    assert 0.89 < found.share <= 1


def test_nothing_limits_workers_that_have_just_begun() -> None:
    assert limit_of(Tally()) is None
    assert limit_of(Tally({**ALL_THE_TIME, "busy_seconds": 1.0})) is None
    assert limit_of(Tally({**ALL_THE_TIME, "seconds.read": 1e9})) == Limit("reading", 1.0)
