"""A loading process reads each sample once, goes on from any position, and names the shard that it cannot read."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dr_pipeline.errors import ShardError
from dr_pipeline.storage import Storage, StorageError
from dr_pipeline.training.data.order import LoaderId
from dr_pipeline.training.data.reader import Position, SampleReader
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
