"""When bad samples are too many: at once in a long shard, at the end of a short one, never from a handful."""

from collections.abc import Callable

import pytest

from dr_pipeline.dataset.manifest import SampleRow
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.training.data.samples import NOT_IN_BASE, SkipCounts

BAD = SampleSkipped("corrupt image", "cut off")


def count(skips: SkipCounts, good: int, bad: int, unmatched: int = 0, uri: str = "s.tar") -> None:
    for _ in range(good):
        skips.used(uri)
    for number in range(bad):
        skips.skipped(uri, f"k{number}", BAD)
    for number in range(unmatched):
        skips.skipped(uri, f"u{number}", SampleSkipped(NOT_IN_BASE))


def parts(skips: SkipCounts, num_shards: int, good: int, bad: int) -> None:
    """Shards of 40 samples, of which the stream sees a few."""
    for number in range(num_shards):
        count(skips, good, bad, uri=f"{number}.tar")
        skips.finished(f"{number}.tar", 40)


def fails(judge: Callable[[], None]) -> bool:
    try:
        judge()
    except ShardError:
        return True
    return False


def test_a_whole_shard_is_judged_at_its_end() -> None:
    skips = SkipCounts(0.2)
    count(skips, good=8, bad=2)
    skips.finished("s.tar", 10)  # as many of so few are allowed
    count(skips, good=4, bad=6, uri="t.tar")
    with pytest.raises(ShardError) as caught:
        skips.finished("t.tar", 10)
    for words in ("t.tar: 6 of 10", "corrupt image (6)", "k5: corrupt image: cut off", "dr-pipeline verify t.tar"):
        assert words in str(caught.value)


@pytest.mark.parametrize(("good", "bad"), [(3, 1), (2, 2), (1, 3), (0, 4), (80, 20), (79, 21), (78, 22), (60, 21)])
@pytest.mark.parametrize("max_skipped", [0.0, 0.2, 0.6, 1.0])
def test_the_student_judges_a_shard_as_the_generator_does(good: int, bad: int, max_skipped: float) -> None:
    skips, stats = SkipCounts(max_skipped), ShardStats()
    stats.rows += [SampleRow(f"g{number}") for number in range(good)]
    for number in range(bad):
        stats.skipped(Sample(f"k{number}", {}, skip=BAD))

    def train() -> None:
        count(skips, good, bad)
        skips.finished("s.tar", good + bad)

    assert fails(train) == fails(lambda: stats.check(max_skipped))


def test_a_long_shard_is_judged_on_the_way() -> None:
    skips = SkipCounts(0.2)
    count(skips, good=0, bad=99)
    with pytest.raises(ShardError, match="100 of 100"):
        count(skips, good=0, bad=1)


def test_part_of_a_shard_is_judged_together_with_other_parts() -> None:
    skips = SkipCounts(0.2)
    parts(skips, 9, good=1, bad=9)  # bad luck?
    with pytest.raises(ShardError, match="90 of 100"):
        parts(skips, 1, good=1, bad=9)


def test_good_parts_are_forgotten() -> None:
    skips = SkipCounts(0.2)
    parts(skips, 50, good=10, bad=0)
    with pytest.raises(ShardError, match="50 of 100"):
        parts(skips, 10, good=5, bad=5)


def test_everything_may_be_tolerated() -> None:
    skips = SkipCounts(1.0)
    count(skips, good=0, bad=300)
    skips.finished("s.tar", 300)


def test_samples_that_the_base_lacks_are_no_fault_unless_it_lacks_all() -> None:
    skips = SkipCounts(0.2)
    count(skips, good=1, bad=0, unmatched=99)
    skips.finished("s.tar", 100)
    count(skips, good=0, bad=0, unmatched=5, uri="t.tar")
    with pytest.raises(ShardError, match=r"t.tar: none of 5 samples is in data.base.shards"):
        skips.finished("t.tar", 5)
