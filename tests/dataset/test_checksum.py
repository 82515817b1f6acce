"""A file that ends with a checksum of itself shows the change of any of its bytes."""

import json

import pytest

from dr_pipeline.dataset import checksum

TREE = {"name": "a", "counts": {"é": 1, "b": 0.1 + 0.2}, "none": None, "list": [True, 1e-9]}


def test_what_is_written_is_read_back() -> None:
    data = checksum.dump(TREE)
    assert checksum.load(data) == TREE
    assert checksum.is_intact(data)
    assert [*json.loads(data)] == [*TREE, "checksum"]


def test_every_flipped_byte_shows() -> None:
    data = checksum.dump(TREE)
    for position in range(len(data)):
        for mask in (1, 4, 32, 128):
            flipped = bytearray(data)
            flipped[position] ^= mask
            assert not checksum.is_intact(bytes(flipped)), (position, bytes(flipped))


def test_a_file_without_checksum_is_not_intact_and_can_be_read() -> None:
    data = json.dumps(TREE).encode()
    assert not checksum.is_intact(data)
    assert checksum.load(data) == TREE


@pytest.mark.parametrize("data", [b"", b"[1]", b"\xff", b"{", b"[" * 100_000])
def test_what_is_no_object_is_damaged(data: bytes) -> None:
    assert not checksum.is_intact(data)
    with pytest.raises(ValueError, match=r"."):
        checksum.load(data)
