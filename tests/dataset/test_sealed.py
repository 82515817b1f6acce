"""A sealed file shows the change of any of its bytes."""

import json

import pytest

from dr_pipeline.dataset.sealed import is_intact, seal, unseal

TREE = {"name": "a", "counts": {"é": 1, "b": 0.1 + 0.2}, "none": None, "list": [True, 1e-9]}


def test_what_is_sealed_is_read_back() -> None:
    data = seal(TREE)
    assert unseal(data) == TREE
    assert is_intact(data)
    assert seal(json.loads(data)) == data  # the checksum is not sealed in turn


def test_every_flipped_byte_shows_or_makes_an_unknown_key() -> None:
    data = seal(TREE)
    for position in range(len(data)):
        for mask in (1, 4, 32, 128):
            flipped = bytearray(data)
            flipped[position] ^= mask
            intact = is_intact(bytes(flipped))
            assert not intact or unseal(bytes(flipped)).keys() - TREE.keys(), (position, bytes(flipped))


def test_a_file_without_checksum_is_from_before() -> None:
    assert is_intact(json.dumps(TREE).encode())


@pytest.mark.parametrize("data", [b"", b"[1]", b"\xff", b"{"])
def test_what_is_no_object_is_damaged(data: bytes) -> None:
    assert not is_intact(data)
    with pytest.raises(ValueError, match=r"."):
        unseal(data)
