"""A stream reads each sample once, goes on from any position, and names the shard that it cannot read."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dr_pipeline.errors import ShardError
from dr_pipeline.storage import Storage, StorageError
from dr_pipeline.train.data.order import StreamId
from dr_pipeline.train.data.stream import Position, Raw, ShardStream
from tests.conftest import make_sample_members, write_tar
from tests.train.data.loading import GOLDEN_SHARDS, train_job

SIZES = (5, 3, 4, 6, 2)


@pytest.fixture
def uris(tmp_path: Path) -> tuple[str, ...]:
    paths = []
    for shard, size in enumerate(SIZES):
        members = [member for index in range(size) for member in make_sample_members(f"{shard}_{index}")]
        paths.append(str(write_tar(tmp_path / f"{shard}.tar", members)))
    return tuple(paths)


def shard_stream(uris: tuple[str, ...], index: int = 0, count: int = 1, **changes: Any) -> ShardStream:
    return ShardStream(train_job("unused", **changes), uris, StreamId(index, count))


def walk(stream: ShardStream, position: Position) -> Iterator[tuple[Raw, Position]]:
    """The samples from a position to its epoch's end, each with the position behind it."""
    used = position.used
    for block in stream.blocks(position):
        samples = list(block.samples)
        for place in range(used, len(samples)):
            yield samples[place], replace(block.start, used=place + 1)
        used = 0


def keys(stream: ShardStream, position: Position = Position()) -> list[str]:  # noqa: B008  (frozen)
    return [raw.sample.key for raw, _ in walk(stream, position)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_streams_share_the_samples_and_go_on_from_any_position(uris: tuple[str, ...], count: int) -> None:
    seen = []
    for index in range(count):
        stream = shard_stream(uris, index, count)
        whole = list(walk(stream, Position(2)))
        for place, (_, position) in enumerate(whole):
            assert keys(shard_stream(uris, index, count), position) == [raw.sample.key for raw, _ in whole[place + 1 :]]
        seen += [raw.sample.key for raw, _ in whole]
    assert sorted(seen) == sorted(f"{shard}_{index}" for shard, size in enumerate(SIZES) for index in range(size))


def test_blocks_are_neighbours_in_another_order_each_epoch(uris: tuple[str, ...]) -> None:
    stream = shard_stream(uris, data={"shuffle_buffer": 4})
    blocks = [[raw.sample.key for raw in block.samples] for block in stream.blocks(Position())]
    assert [len(block) for block in blocks] == [4] * (sum(SIZES) // 4)
    in_stored_order = keys(shard_stream(uris, data={"shuffle_buffer": 1}))
    flat = [key for block in blocks for key in block]
    assert flat != in_stored_order
    assert all(set(block) == set(in_stored_order[4 * i : 4 * i + 4]) for i, block in enumerate(blocks))
    assert flat == keys(stream)
    one_block = shard_stream(uris[3:4], data={"shuffle_buffer": 10})
    assert len({tuple(keys(one_block, Position(epoch))) for epoch in range(4)}) == 4


def test_the_last_sample_of_a_visit_knows_the_shard_size(uris: tuple[str, ...]) -> None:
    for count in (1, 3):
        sizes = {}
        for raw, _ in walk(shard_stream(uris, 0, count), Position()):
            if raw.num_samples is not None:
                sizes[raw.sample.key[0]] = raw.num_samples
        assert all(size == SIZES[int(shard)] for shard, size in sizes.items())
        assert len(sizes) == (5 if count == 1 else 3)  # a stream of 3: one whole shard, and its part of two


def test_embeddings_are_read_only_where_they_count() -> None:
    uris = (str(GOLDEN_SHARDS[1]),)
    for weight, read in ((1.0, True), (0.0, False)):
        stream = shard_stream(uris, distillation={"weight": weight})
        assert all(("pth.gz" in raw.sample.members) == read for raw, _ in walk(stream, Position()))


def test_a_shard_that_cannot_be_read_is_named(uris: tuple[str, ...]) -> None:
    path = Path(uris[1])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ShardError, match=rf"{path}: truncated.*dr-pipeline verify"):
        keys(shard_stream(uris))
    path.unlink()
    with pytest.raises(ShardError, match=rf"{path}: no such shard"):
        keys(shard_stream(uris))


def test_a_connection_that_stays_broken_is_named(uris: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 3000:
                raise StorageError(f"{uris[0]} cannot be read: ConnectionResetError: reset by peer")
            return super().read(size)

    monkeypatch.setattr(Storage, "open", lambda self, uri: Breaking(Path(uri).read_bytes()))
    with pytest.raises(StorageError, match=r"\.tar cannot be read: ConnectionResetError: reset by peer"):
        keys(shard_stream(uris))
