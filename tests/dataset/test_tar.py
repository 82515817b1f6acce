"""Tars round-trip, other readers read ours, ours reads other writers', and a cut is never taken for an end."""

import gzip
import hashlib
import io
import random
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from dr_pipeline.dataset import gzipped
from dr_pipeline.dataset.tar import END_MARK, TarWriter, read_tar
from dr_pipeline.errors import ShardError
from tests.conftest import GOLDEN, image_bytes, make_sample_members, tar_bytes
from tests.tars import Member, read_members

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300).filter(
    lambda name: not name.endswith("/")
)
members = st.lists(st.tuples(names, st.binary(max_size=1100)), max_size=4)


def read(data: bytes) -> list[Member]:
    return list(read_members(io.BytesIO(data)))


@given(members)
def test_round_trip(written: list[Member]) -> None:
    data = tar_bytes(written)
    assert read(data) == written
    assert tar_bytes(written) == data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [(item.name, archive.extractfile(item).read()) for item in archive] == written  # type: ignore[union-attr]


def test_bytes_depend_on_names_and_contents_alone() -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_bytes([("a.txt", b"x"), ("b" * 150, b"")]))) as archive:
        for item in archive:
            assert (item.mtime, item.uid, item.gid, item.uname, item.gname, item.mode) == (0, 0, 0, "", "", 0o644)
            assert item.isfile()


def test_the_writer_knows_size_and_hash() -> None:
    writer = TarWriter(buffer := io.BytesIO())
    writer.add("a.txt", b"abc")
    digest = writer.close()
    assert digest.size_bytes == len(buffer.getvalue())
    assert digest.sha256 == hashlib.sha256(buffer.getvalue()).hexdigest()


def test_webdataset_reads_ours(tmp_path: Path) -> None:
    long_key = "folder/" + "k" * 140
    path = tmp_path / "0.tar"
    path.write_bytes(tar_bytes(make_sample_members("00") + make_sample_members(long_key, "größe")))
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["00", long_key]
    assert samples[1]["txt"].decode() == "größe"


ODD_NAMES = ["a.txt", "größe/" + "ü" * 90 + ".txt", "d/" * 80 + "x.txt", "n" * 101, "n" * 600]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_both_forms(form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for index, name in enumerate(ODD_NAMES):
            item = tarfile.TarInfo(name)
            item.size, item.mtime = index, 1234.5  # a fraction makes PAX write a record that is not a path
            archive.addfile(item, io.BytesIO(b"x" * index))
    assert read(buffer.getvalue()) == [(name, b"x" * index) for index, name in enumerate(ODD_NAMES)]


def test_names_that_posix_splits_in_prefix_and_name() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("p" * 120 + "/" + "n" * 80))
    assert [name for name, _ in read(buffer.getvalue())] == ["p" * 120 + "/" + "n" * 80]


def test_a_name_that_is_not_utf8_can_be_printed_and_stored() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("caf\xe9.txt"))
        archive.addfile(tarfile.TarInfo("\xe9" * 120))
    (short, _), (long, _) = read(buffer.getvalue())
    assert (short.encode(), long.encode()) == (b"caf\\xe9.txt", b"\\xe9" * 120)


def test_links_devices_and_folders_are_passed_over() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            item = tarfile.TarInfo("odd" * 50)  # the long name belongs to it, not to the file that follows
            item.type, item.linkname = kind, "target" * 30
            archive.addfile(item)
            file = tarfile.TarInfo(f"file{kind.decode()}")
            file.size = 3
            archive.addfile(file, io.BytesIO(b"abc"))
    assert read(buffer.getvalue()) == [(f"file{kind}", b"abc") for kind in "52136"]


def test_a_scan_names_what_is_no_file() -> None:
    buffer = io.BytesIO()
    kinds = {
        tarfile.DIRTYPE: "folder",
        tarfile.SYMTYPE: "symbolic link",
        tarfile.LNKTYPE: "hard link",
        tarfile.CHRTYPE: "device",
        tarfile.BLKTYPE: "device",
        tarfile.FIFOTYPE: "named pipe",
        b"V": "entry of type 'V'",
    }
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for kind in kinds:
            item = tarfile.TarInfo("x.jpg")
            item.type, item.linkname = kind, "t" * 150
            archive.addfile(item)
    buffer.seek(0)
    found = list(read_tar(buffer, lambda name: True))
    assert [(member.name, member.kind, member.data) for member in found] == [
        ("x.jpg", kind, None) for kind in kinds.values()
    ]
    assert [member.target for member in found[1:3]] == ["t" * 150] * 2


def hard_linked(form: int) -> bytes:
    """Files with long names, links to the first and the last of them, a link to a link, and one to nothing."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, target in (
            ("d/" * 80 + "a.jpg", ""),
            ("b.jpg", ""),
            ("c.jpg", "d/" * 80 + "a.jpg"),
            ("d.jpg", ""),
            ("e.jpg", "d.jpg"),
            ("f.jpg", "e.jpg"),
            ("g.jpg", "elsewhere.jpg"),
            ("h.jpg", ""),
        ):
            item = tarfile.TarInfo(name)
            item.linkname, item.type = target, tarfile.LNKTYPE if target else tarfile.REGTYPE
            item.size = 0 if target else 600
            archive.addfile(item, io.BytesIO(name[-5:].encode() * 120))
    return buffer.getvalue()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_hard_link_is_the_earlier_file_that_it_names(form: int) -> None:
    found = list(read_tar(io.BytesIO(hard_linked(form)), lambda name: name != "e.jpg"))
    contents = {member.name[-5:]: (member.data or b"")[:5].decode() for member in found}
    assert contents == {
        "a.jpg": "a.jpg",
        "b.jpg": "b.jpg",
        "c.jpg": "a.jpg",
        "d.jpg": "d.jpg",
        "e.jpg": "",  # not wanted
        "f.jpg": "",
        "g.jpg": "",
        "h.jpg": "h.jpg",
    }
    assert [member.name for member in found if member.kind] == ["f.jpg", "g.jpg"]
    assert [member.size_bytes for member in found] == [600] * 5 + [0, 0, 600]
    large = list(read_tar(io.BytesIO(hard_linked(form)), lambda name: True, max_bytes=599))
    assert {member.data for member in large} == {None}
    assert [member.size_bytes for member in large] == [600] * 5 + [0, 0, 600]


def test_a_hard_link_to_what_is_no_file_stays_one() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, target in (("a.jpg", tarfile.SYMTYPE, "blob"), ("b.jpg", tarfile.LNKTYPE, "a.jpg")):
            item = tarfile.TarInfo(name)
            item.type, item.linkname = kind, target
            archive.addfile(item)
    found = list(read_tar(io.BytesIO(buffer.getvalue()), lambda name: True))
    assert [(member.kind, member.data) for member in found] == [("symbolic link", None), ("hard link", None)]


def test_in_a_packed_tar_which_has_no_way_back_a_hard_link_stays_one() -> None:
    found = list(read_tar(io.BytesIO(gzip.compress(hard_linked(tarfile.GNU_FORMAT))), lambda name: True))
    assert [member.name for member in found if member.kind == "hard link"] == ["c.jpg", "e.jpg", "f.jpg", "g.jpg"]
    assert [member.data is None for member in found] == [False, False, True, False, True, True, True, False]


def test_a_pax_header_for_all_members_is_passed_over() -> None:
    buffer = io.BytesIO()
    headers = {"comment": "made elsewhere"}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    assert [name for name, _ in read(buffer.getvalue())] == ["a.txt"]


def small_tars() -> list[bytes]:
    ours = tar_bytes([("a.jpg", b"x" * 700), ("a.txt", b""), ("b" * 130, b"y" * 512), ("c.txt", b"z")])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a.txt", "ü" * 120, "c.txt"):
            item = tarfile.TarInfo(name)
            item.size = 600
            archive.addfile(item, io.BytesIO(b"q" * 600))
    return [ours, buffer.getvalue()]


@pytest.mark.parametrize("data", small_tars(), ids=["ours", "pax"])
def test_a_cut_anywhere_before_the_end_mark_is_an_error(data: bytes) -> None:
    content_end = len(data.rstrip(b"\0"))
    content_end += -content_end % 512
    cuts = [*range(0, content_end + 1, 512), *random.Random(0).sample(range(content_end + 512), 200)]
    assert content_end in cuts  # all members whole, only the end mark is missing
    for cut in cuts:
        with pytest.raises(ShardError, match=r"truncated|the file is empty"):
            read(data[:cut])
    assert read(data[: content_end + 512]) == read(data)  # one of the mark's two blocks is enough to know the end


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"no tar at all", "truncated: the tar ends at byte 13"),
        (b"no tar at all" * 100, "not a tar header at byte 0"),
        (tar_bytes([("a.txt", b"x" * 600)])[:1536] + b"rubbish" * 100, "not a tar header at byte 1536"),
    ],
    ids=["zero bytes", "short rubbish", "rubbish", "rubbish after a member"],
)
def test_what_is_no_tar_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        read(data)


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"\n <!DOCTYPE html><title>404", "web page.*download"),
        (b"<HTML><body>404</body></HTML>", "web page.*download"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "XML.*download"),
        (b'{"message": "rate limit"}', "JSON.*download"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (gzip.compress(b'{"error": 1}', mtime=0), "JSON"),
        (gzip.compress(gzip.compress(b"", mtime=0), mtime=0), "gunzip"),
        (b"BZh91AY", "bzip2.*plain tar"),
        (b"\xfd7zXZ\0", "xz.*plain tar"),
        (b"\x28\xb5\x2f\xfd", "zstd.*plain tar"),
        (b"PK\x03\x04", "zip.*plain tar"),
        (b"PAR1", "Parquet"),
        (image_bytes(), "JPEG"),
        (image_bytes(form="PNG"), "PNG"),
    ],
    ids=lambda part: repr(part)[:20],
)
@pytest.mark.parametrize("length", [0, 4096], ids=["short", "long"])
def test_another_kind_of_file_is_named_with_what_to_do(start: bytes, told: str, length: int) -> None:
    with pytest.raises(ShardError, match=f"not a tar but .*{told}"):
        read(start + (b"\0" if start.startswith(gzipped.MARK) else b"\x01") * length)


def header(name: str = "a.bin", size: int = 0, kind: bytes = tarfile.REGTYPE, form: int = tarfile.GNU_FORMAT) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(form)


@pytest.mark.parametrize("size", [100 << 30, (1 << 30) - 1, 17 << 20])
def test_a_size_that_is_a_lie_allocates_nothing(size: int) -> None:
    data = header(size=size) + bytes(4096)
    tracemalloc.start()
    with pytest.raises(ShardError, match=r"truncated: member 'a.bin'.* of|truncated: member 'a.bin' claims"):
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


def test_a_member_beyond_the_limit_is_passed_over() -> None:
    data = tar_bytes([("a.txt", b"x"), ("b.bin", b"y" * 3000), ("c.txt", b"z" * 2000)])
    small, large, limit = read_tar(io.BytesIO(data), lambda name: True, max_bytes=2000)
    assert (small.data, large.data, limit.data) == (b"x", None, b"z" * 2000)
    assert large.size_bytes == 3000


@pytest.mark.parametrize("size", [-1024, -1, 1 << 43, (1 << 63) - 1, 1 << 80])
def test_an_impossible_size_is_no_header(size: int) -> None:
    for wanted in (True, False):
        with pytest.raises(ShardError, match=f"a size of {size} bytes is impossible"):
            list(read_tar(io.BytesIO(header(size=size) + END_MARK), lambda name, wanted=wanted: wanted))


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.BLKTYPE])
def test_what_holds_no_data_has_none_whatever_its_size_says(kind: bytes) -> None:
    assert read(header(size=700, kind=kind) + tar_bytes([("a.txt", b"x")])) == [("a.txt", b"x")]


def test_joined_tars_are_an_error_not_half_a_shard() -> None:
    data = tar_bytes([("a.txt", b"x")])
    assert read(data + bytes(10240)) == [("a.txt", b"x")]
    with pytest.raises(ShardError, match="goes on after"):
        read(data + data)


def test_a_flipped_bit_in_a_header_is_an_error() -> None:
    data = bytearray(tar_bytes([("a.txt", b"x"), ("b.txt", b"y")]))
    data[1024] ^= 1
    with pytest.raises(ShardError, match="not a tar header at byte 1024"):
        read(bytes(data))


def pax_record_block(record: bytes) -> bytes:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    return header.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512) + tar_bytes([("a.txt", b"")])


@pytest.mark.parametrize("record", [b"x path=y\n", b"path=y\n", b"0 path=y\n", b"99 path=y\n", b"-5 path=y\n"])
def test_malformed_pax_records_are_an_error(record: bytes) -> None:
    with pytest.raises(ShardError, match="PAX header is malformed"):
        read(pax_record_block(record))


def test_what_no_sample_needs_is_refused() -> None:
    with pytest.raises(ShardError, match="larger than 8 GiB"):
        read(pax_record_block(b"20 size=99999999999\n"))
    header = tarfile.TarInfo("a")
    header.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(ShardError, match="sparse"):
        read(header.tobuf(tarfile.GNU_FORMAT))
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with pytest.raises(ShardError, match="is not a name"):
        read(header.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize(
    "record",
    [
        b"22 GNU.sparse.major=1\n",
        b"30 GNU.sparse.realsize=100000\n",
        b"26 GNU.sparse.map=0,5,9,1\n",
        b"24 GNU.sparse.size=9999\n",
    ],
)
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE])
def test_a_sparse_file_of_any_form_is_refused(record: bytes, kind: bytes) -> None:
    header = tarfile.TarInfo("PaxHeaders/a.jpg")
    header.type, header.size = kind, len(record)
    data = header.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512) + tar_bytes([("a.txt", b"")])
    with pytest.raises(ShardError, match=r"a\.jpg' is a sparse file: write the tar without --sparse"):
        read(data)


def test_reading_is_streamed() -> None:
    """A member is given out before the next is read."""
    data = tar_bytes([("a.txt", b"x" * 600), ("b.txt", b"y" * 600)])
    stream = io.BytesIO(data)
    reader = read_tar(stream)
    assert next(reader).name == "a.txt"
    assert stream.tell() == 512 + 1024


def test_an_empty_tar_has_no_members() -> None:
    writer = TarWriter(buffer := io.BytesIO())
    writer.close()
    assert read(buffer.getvalue()) == []
    assert len(buffer.getvalue()) == 1024


@pytest.mark.parametrize("name", ["v1_fp32", "v1_bf16", "v2_bf16"])
def test_foreign_shards_are_read_like_tarfile_reads_them(name: str) -> None:
    data = (GOLDEN / "shards" / f"{name}.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(item.name, archive.extractfile(item).read()) for item in archive]  # type: ignore[union-attr]
    assert read(data) == expected


class Counted(io.BytesIO):
    """A file that counts the bytes read from it."""

    num_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.num_read += len(data)
        return data


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_scan_tells_where_members_lie_and_reads_those_wanted(form: int) -> None:
    buffer = Counted()
    contents = {name: name.encode() * (400 + index) for index, name in enumerate(ODD_NAMES)}
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in contents.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    data = buffer.getvalue()
    buffer.seek(0)
    located = list(read_tar(buffer, lambda name: name.startswith("d/")))
    assert [member.name for member in located] == ODD_NAMES
    assert [member.data for member in located] == [None, None, contents[ODD_NAMES[2]], None, None]
    assert buffer.num_read < len(contents[ODD_NAMES[2]]) + 30 * 512  # the wanted one, and headers
    assert [member.start for member in located] == [0, *(member.end for member in located[:-1])]
    for member in located:
        assert read(data[member.start : member.end] + END_MARK) == [(member.name, contents[member.name])]


def test_a_scan_notices_a_cut_in_what_it_passes_over() -> None:
    data = tar_bytes([("a.bin", b"x" * 5000)])
    for size in (600, 3000, len(data) - 1024):
        with pytest.raises(ShardError, match="truncated"):
            list(read_tar(io.BytesIO(data[:size]), lambda name: False))
