"""Models are timed in batches that grow to the job's; calibrations of whole jobs are in tests/runners."""

import time

import pytest

from dr_pipeline.reinforce.model_times import each_ms


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (4, [4]), (20, [4, 8, 16, 20])])
def test_batches_grow_to_the_job_s(most: int, counts: list[int]) -> None:
    asked: list[int] = []
    assert each_ms(asked.append, most) >= 0
    assert asked == [count for count in counts for _ in range(2)] + [counts[-1]], "the first time does not count"


def test_a_batch_that_takes_long_is_not_made_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    asked: list[int] = []
    assert each_ms(asked.append, 512) == 2000 / 4
    assert set(asked) == {4}
