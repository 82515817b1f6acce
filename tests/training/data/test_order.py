"""Each sample is in exactly one stream of an epoch, whatever the numbers; nothing but the seed decides the order."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_pipeline.training.data.order import LoaderId, shuffled, visits
from dr_pipeline.views.seeding import Stream


def streams(count: int) -> list[LoaderId]:
    return [LoaderId(index, count) for index in range(count)]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12), st.integers(1, 9), st.integers(0, 3))
def test_every_sample_is_seen_once_an_epoch(shard_sizes: list[int], num_streams: int, epoch: int) -> None:
    seen = Counter(
        (visit.shard, sample)
        for stream in streams(num_streams)
        for visit in visits(len(shard_sizes), epoch, stream, 0, "epoch")
        for sample in range(shard_sizes[visit.shard])
        if visit.takes(sample)
    )
    assert seen == {(shard, sample): 1 for shard, size in enumerate(shard_sizes) for sample in range(size)}


def test_whole_shards_are_dealt_and_only_the_rest_is_shared() -> None:
    lists = [visits(11, 0, stream, 0, "epoch") for stream in streams(4)]
    assert [[visit.step for visit in each] for each in lists] == [[1, 1, 4, 4, 4]] * 4
    assert all(visit.first == number for number, each in enumerate(lists) for visit in each[2:])


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(epoch: int, seed: int) -> list[int]:
        return [visit.shard for visit in visits(40, epoch, LoaderId(0, 1), seed, "epoch")]

    assert order(0, 0) == order(0, 0) != list(range(40))
    assert len({tuple(order(epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9


def test_resampled_streams_draw_their_share_with_replacement() -> None:
    draws = [[visit.shard for visit in visits(100, 0, stream, 0, "resampled")] for stream in streams(2)]
    assert [len(each) for each in draws] == [50, 50]
    assert draws[0] != draws[1]
    assert len(set(draws[0] + draws[1])) < 80  # 63 are expected, and without replacement it would be 100
    assert [visit.shard for visit in visits(100, 1, LoaderId(0, 2), 0, "resampled")] != draws[0]


@pytest.mark.parametrize("count", [0, 1, 100])
def test_shuffling_loses_nothing(count: int) -> None:
    assert sorted(shuffled(range(count), Stream(0, "x"))) == list(range(count))
