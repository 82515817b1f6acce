"""Samples are read and written; every member of a tar is a sample's, or counted with the reason why it is none."""

import hashlib
import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.shard_io import read_samples, write_samples
from dr_pipeline.dataset.tar import END_MARK
from dr_pipeline.errors import ShardError
from tests.conftest import tar_bytes


def read(*names: str, kind: bytes = tarfile.REGTYPE) -> tuple[list[Sample], Counter[str]]:
    """The samples of a tar with members of these names; `kind` is that of those that begin with `L`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in names:
            item = tarfile.TarInfo(name)
            item.type, item.linkname = (kind, "target") if name.startswith("L") else (tarfile.REGTYPE, "")
            archive.addfile(item)
    buffer.seek(0)
    passed_over: Counter[str] = Counter()
    found = list(read_samples(buffer, max_member_bytes=1000, passed_over=passed_over))
    assert [sample.index for sample in found] == list(range(len(found)))
    assert sum(sample.num_members for sample in found) + passed_over.total() == len(names)
    return found, passed_over


def ends(*names: str) -> list[tuple[str, list[str], str | None]]:
    return [(one.key, list(one.members), one.skip.reason if one.skip else None) for one in read(*names)[0]]


def test_what_is_no_samples_is_counted_by_reason() -> None:
    found, passed_over = read("a.jpg", "README", "._a.jpg", "d/.x", "a.", "LINK", "a.txt", kind=tarfile.DIRTYPE)
    assert [sample.key for sample in found] == ["a"]
    assert passed_over == {"name without extension": 2, "name without key": 2, "folder": 1}


@pytest.mark.parametrize(("kind", "remedy"), [(tarfile.SYMTYPE, "--dereference"), (tarfile.LNKTYPE, "--hard-deref")])
def test_a_sample_with_a_link_is_skipped(kind: bytes, remedy: str) -> None:
    (first, second), _ = read("La.jpg", "La.txt", "b.jpg", kind=kind)
    assert first.skip
    assert first.skip.reason in ("symbolic link", "hard link")
    assert first.skip.detail.startswith("jpg names target: write the tar with " + remedy)
    assert first.members == {}
    assert second.skip is None


def test_keys_with_dots_are_counted_each() -> None:
    names = [f"img_0.{score}.{ext}" for score in (512, 734, 8) for ext in ("jpg", "txt")]
    assert ends(*names, "b.jpg") == [
        ("img_0.512", ["512.jpg", "512.txt"], "dots in key"),
        ("img_0.734", ["734.jpg", "734.txt"], "dots in key"),
        ("img_0.8", ["8.jpg", "8.txt"], "dots in key"),
        ("b", ["jpg"], None),
    ]
    skip = read(*names)[0][0].skip
    assert skip
    assert skip.detail == "a key ends at the first dot: to every reader this is a 512.jpg of img_0; rename the files"


def test_what_else_belongs_to_a_key_with_dots_goes_with_it() -> None:
    assert ends("a.5.JPG", "a.5.syn.json", "a.5.1.jpg", "a.5.1.url.txt", "a.cls") == [
        ("a.5", ["5.JPG", "5.syn.json"], "dots in key"),
        ("a.5.1", ["5.1.jpg", "5.1.url.txt"], "dots in key"),
        ("a", ["cls"], None),
    ]


@pytest.mark.parametrize(
    ("names", "own"),
    [
        (("a.jpg", "a.txt", "a.mask.png"), 3),
        (("a.jpg", "a.txt", "a.mask.png", "a.mask.json"), 4),
        (("a.jpg", "a.json", "a.mask.png", "a.mask.txt"), 4),
        (("a.jpg", "a.txt", "a.5.jpg", "a.5.txt"), 2),
        (("a.jpg", "a.json", "a.5.jpg", "a.5.json"), 2),
    ],
)
def test_beside_an_image_a_further_one_is_a_sample_if_it_has_a_text_of_the_same_kind(
    names: tuple[str, ...], own: int
) -> None:
    *others, last = ends(*names)
    assert (last[0], len(last[1]), last[2]) == ("a", own, None)
    assert len(others) == (0 if own == len(names) else 1)


def test_scattered_members_are_told_from_duplicates() -> None:
    assert ends("a.jpg", "b.jpg", "a.txt", "b.jpg", "a.json", "c.jpg", "a.txt") == [
        ("a", ["jpg"], None),
        ("b", ["jpg"], None),
        ("a", ["txt"], "members not adjacent"),
        ("b", ["jpg"], "duplicate key"),
        ("a", ["json"], "members not adjacent"),
        ("c", ["jpg"], None),
        ("a", ["txt"], "duplicate key"),
    ]
    skip = read("a.jpg", "b.jpg", "a.txt")[0][2].skip
    assert skip
    assert skip.detail == "jpg and txt do not lie side by side: sort the tar's members by name, as tar --sort=name does"


def test_more_members_than_any_sample_has_are_not_collected() -> None:
    members = [(f"a.{number}.jpg", b"") for number in range(1001)]
    assert len(list(read_samples(io.BytesIO(tar_bytes(members[:1000]))))) == 1000
    with pytest.raises(ShardError, match=r"more than 1000 members have the key a, such as a\.1000\.jpg: a key ends at"):
        list(read_samples(io.BytesIO(tar_bytes(members))))


def test_the_key_ends_at_the_first_dot_of_the_base_name() -> None:
    assert ends("a.jpg", "a.url.txt", "a.b.c.json") == [("a", ["jpg", "url.txt", "b.c.json"], None)]
    assert ends("v1.0/x.jpg", "v1.0/x.txt") == [("v1.0/x", ["jpg", "txt"], None)]
    assert ends("./d/x.jpg", "d/x.txt") == [("d/x", ["jpg", "txt"], None)]
    assert ends("d/x.jpg", "e/x.jpg") == [("d/x", ["jpg"], None), ("e/x", ["jpg"], None)]


def test_extensions_that_we_read_are_read_in_any_case() -> None:
    assert ends("a.JPG", "a.Txt", "a.JSON", "a.Syn.Json", "a.EXIF") == [
        ("a", ["jpg", "txt", "json", "syn.json", "EXIF"], None)
    ]
    for ext in ("jpg", "jpeg", "png", "webp"):
        assert ends(f"a.{ext.upper()}") == [("a", [ext], None)]


def test_a_second_member_of_the_same_extension_starts_another_sample() -> None:
    assert ends("a.jpg", "a.txt", "a.jpg", "a.txt") == [
        ("a", ["jpg", "txt"], None),
        ("a", ["jpg", "txt"], "duplicate key"),
    ]
    assert ends("a.jpg", "a.JPG") == [("a", ["jpg"], None), ("a", ["jpg"], "duplicate key")]


def test_a_member_beyond_the_limit_rules_its_sample_out() -> None:
    data = tar_bytes([("a.jpg", b"x"), ("a.bin", b"y" * 3000), ("b.jpg", b"z" * 2000)])
    first, second = read_samples(io.BytesIO(data), max_member_bytes=2000)
    assert str(first.skip) == "member too large: bin has 3000 bytes, allowed 2000"
    assert (second.skip, second.members) == (None, {"jpg": b"z" * 2000})


def test_no_members_no_samples() -> None:
    assert ends() == []


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    samples = [Sample("a", {"jpg": b"A" * 700, "txt": b""}), Sample("d/b", {"cls": b"5"})]
    written = write_samples(tmp_path / "x.tar", samples)
    data = (tmp_path / "x.tar").read_bytes()
    assert (written.size_bytes, written.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    found = list(read_samples(io.BytesIO(data), lambda name: not name.endswith(".txt")))
    assert [(sample.key, sample.members, sample.num_members) for sample in found] == [
        ("a", {"jpg": b"A" * 700}, 2),
        ("d/b", {"cls": b"5"}, 1),
    ]
    start, end = found[1].span
    assert [one.key for one in read_samples(io.BytesIO(data[start:end] + END_MARK))] == ["d/b"]
