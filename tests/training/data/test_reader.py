"""A loading process reads each sample once, goes on from any position, and names the shard that it cannot read.

Each sample is in exactly one stream of an epoch, whatever the numbers; nothing but the seed decides the order.
"""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_pipeline.errors import ShardError
from dr_pipeline.storage import Storage, StorageError
from dr_pipeline.training.data.reader import LoaderId, Position, SampleReader, shuffled, visits
from dr_pipeline.views.seeding import Stream
from tests.conftest import make_sample_members, write_tar
from tests.training.data.loading import GOLDEN_SHARDS, train_job

SIZES = (5, 3, 4, 6, 2)


@pytest.fixture
def uris(tmp_path: Path) -> tuple[str, ...]:
    paths = []
    for shard, size in enumerate(SIZES):
        members = [member for index in range(size) for member in make_sample_members(f"{shard}_{index}")]
        paths.append(str(write_tar(tmp_path / f"{shard}.tar", members)))
    return tuple(paths)


def reader(uris: tuple[str, ...], index: int = 0, count: int = 1, **changes: Any) -> SampleReader:
    return SampleReader(train_job("unused", **changes), uris, LoaderId(index, count), lambda uri, num_samples: None, 0)


def keys(reader: SampleReader, position: Position = Position()) -> list[str]:  # noqa: B008  (frozen)
    return [sample.key for _, sample, _ in reader.epoch(position)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_processes_share_the_samples_and_go_on_from_any_position(uris: tuple[str, ...], count: int) -> None:
    seen = []
    for index in range(count):
        whole = list(reader(uris, index, count).epoch(Position(2)))
        whole_keys = [sample.key for _, sample, _ in whole]
        for place, (_, _, position) in enumerate(whole):
            assert keys(reader(uris, index, count), position) == whole_keys[place + 1 :]
        seen += whole_keys
    assert sorted(seen) == sorted(f"{shard}_{index}" for shard, size in enumerate(SIZES) for index in range(size))


def test_blocks_are_neighbours_in_another_order_each_epoch(uris: tuple[str, ...]) -> None:
    blocks: dict[Position, list[str]] = {}
    for _, sample, behind in reader(uris, data={"shuffle_buffer": 4}).epoch(Position()):
        blocks.setdefault(replace(behind, used=0), []).append(sample.key)
    assert [len(block) for block in blocks.values()] == [4] * (sum(SIZES) // 4)
    in_stored_order = keys(reader(uris, data={"shuffle_buffer": 1}))
    assert [key for block in blocks.values() for key in block] != in_stored_order
    assert all(set(block) == set(in_stored_order[4 * i : 4 * i + 4]) for i, block in enumerate(blocks.values()))
    one_block = reader(uris[3:4], data={"shuffle_buffer": 10})
    assert len({tuple(keys(one_block, Position(epoch))) for epoch in range(4)}) == 4


def test_a_shard_is_finished_with_its_size_when_its_last_sample_is_used(uris: tuple[str, ...]) -> None:
    for count in (1, 3):
        sizes: dict[str, int] = {}
        job = train_job("unused", data={"shuffle_buffer": 4})
        for uri, _, _ in SampleReader(job, uris, LoaderId(0, count), sizes.__setitem__, 0).epoch(Position()):
            assert uri not in sizes
        assert all(size == SIZES[uris.index(uri)] for uri, size in sizes.items())
        assert len(sizes) == (5 if count == 1 else 3)  # of 3 processes, each has one whole shard and its part of two


def test_embeddings_are_read_only_where_they_count() -> None:
    uris = (str(GOLDEN_SHARDS[1]),)
    for weight, read in ((1.0, True), (0.0, False)):
        samples = [sample for _, sample, _ in reader(uris, distillation={"weight": weight}).epoch(Position())]
        assert all(("pth.gz" in sample.members) == read for sample in samples)


def test_a_shard_that_cannot_be_read_is_named(uris: tuple[str, ...]) -> None:
    path = Path(uris[1])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ShardError, match=rf"{path}: truncated.*dr-pipeline verify"):
        keys(reader(uris))
    path.unlink()
    with pytest.raises(ShardError, match=rf"{path}: no such shard"):
        keys(reader(uris))


def test_a_connection_that_stays_broken_is_named(uris: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 3000:
                raise StorageError(f"{uris[0]} cannot be read: ConnectionResetError: reset by peer")
            return super().read(size)

    monkeypatch.setattr(Storage, "open", lambda self, uri: Breaking(Path(uri).read_bytes()))
    with pytest.raises(StorageError, match=r"\.tar cannot be read: ConnectionResetError: reset by peer"):
        keys(reader(uris))


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
