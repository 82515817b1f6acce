"""A tar that is packed by gzip is read as it is unpacked, and a cut or a flipped bit is never taken for its end."""

import gzip
import io
import random
from contextlib import suppress

import pytest

from dr_pipeline.dataset import gzipped, tar
from dr_pipeline.dataset.tar import read_tar
from dr_pipeline.errors import ShardError
from tests.conftest import tar_bytes
from tests.dataset.test_tar import header, read


def packed(*parts: bytes) -> bytes:
    return b"".join(gzip.compress(part, mtime=0) for part in parts)


MEMBERS = [("a.jpg", bytes(range(256)) * 9), ("a.txt", b"x"), ("b.bin", b"y" * 3000), ("b.txt", b"z")]


def test_a_tar_that_is_packed_by_gzip_is_read() -> None:
    data = tar_bytes(MEMBERS)
    for file in (packed(data), packed(data[:700], data[700:]), packed(data) + bytes(512), packed(data + bytes(9000))):
        assert read(file) == MEMBERS
    expected = list(read_tar(io.BytesIO(data), lambda name: name.endswith(".txt"), max_bytes=2000))
    assert list(read_tar(io.BytesIO(packed(data)), lambda name: name.endswith(".txt"), max_bytes=2000)) == expected


def test_a_packed_tar_is_unpacked_piece_by_piece() -> None:
    noise = [(f"{index}.bin", random.Random(index).randbytes(1 << 20)) for index in range(4)]
    stream = io.BytesIO(packed(tar_bytes(noise)))
    assert next(read_tar(stream)).data == noise[0][1]
    assert stream.tell() < 2 << 20


def test_a_packed_tar_that_is_cut_or_damaged_is_an_error_wherever_it_is() -> None:
    file = packed(tar_bytes(MEMBERS))
    for size in range(2, len(file)):
        with pytest.raises(ShardError, match=r"gzip file is cut or damaged: .*: copy or download it again"):
            read(file[:size])
    unnoticed = []
    for position in range(10, len(file)):  # in front of it lie the file's time and the like
        with suppress(ShardError):
            unnoticed.append(read(file[:position] + bytes([file[position] ^ 4]) + file[position + 1 :]))
    assert all(members == MEMBERS for members in unnoticed)  # another way to pack the same bytes
    assert len(unnoticed) < 10
    with pytest.raises(ShardError, match="gzip file is cut or damaged"):
        read(file + b"more")
    with pytest.raises(ShardError, match="truncated"):
        read(packed(tar_bytes(MEMBERS)[:-1024]))
    with pytest.raises(ShardError, match="goes on after"):
        read(packed(tar_bytes(MEMBERS), tar_bytes(MEMBERS)))


def test_what_a_packed_tar_unpacks_to_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzipped, "_FURTHEST_BYTES", 100_000)
    monkeypatch.setattr(tar, "LARGEST_MEMBER_BYTES", 100_000)
    large = packed(tar_bytes([("a.bin", bytes(200_000))]))
    for wanted in (True, False):
        with pytest.raises(ShardError, match="a member has more than the 100000 bytes that are unpacked"):
            list(read_tar(io.BytesIO(large), lambda name, wanted=wanted: wanted, max_bytes=50_000))
    monkeypatch.setattr(tar, "_PIECE_BYTES", 10_000)
    with pytest.raises(ShardError, match="goes on after the tar's end mark"):
        read(packed(tar_bytes(MEMBERS) + bytes(200_000)))
    stream = io.BytesIO(packed(header(size=1 << 42) + bytes(300_000)))
    with pytest.raises(ShardError, match="a member has more than the 100000 bytes that are unpacked"):
        read(stream.getvalue())
