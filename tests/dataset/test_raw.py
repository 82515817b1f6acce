"""Every member of a tar is a sample's, or counted with the reason why it is none's."""

import io
import tarfile

import pytest

from dr_pipeline.dataset.raw import Account, RawSample, raw_samples
from dr_pipeline.dataset.tar import scan
from dr_pipeline.errors import ShardError
from tests.conftest import tar_bytes


def raws(*names: str, kind: bytes = tarfile.REGTYPE) -> tuple[list[RawSample], Account]:
    """The samples of a tar with members of these names; `kind` is that of those that begin with `L`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in names:
            item = tarfile.TarInfo(name)
            item.type, item.linkname = (kind, "target") if name.startswith("L") else (tarfile.REGTYPE, "")
            archive.addfile(item)
    buffer.seek(0)
    account = Account()
    found = list(raw_samples(scan(buffer, lambda name: True), account, 1000))
    assert sum(len(raw.members) for raw in found) + account.passed_over.total() == account.num_members == len(names)
    return found, account


def ends(*names: str) -> list[tuple[str, list[str], str | None]]:
    return [(raw.key, list(raw.members), raw.skip.reason if raw.skip else None) for raw in raws(*names)[0]]


def test_what_is_no_samples_is_counted_by_reason() -> None:
    found, account = raws("a.jpg", "README", "._a.jpg", "d/.x", "a.", "LINK", "a.txt", kind=tarfile.DIRTYPE)
    assert [raw.key for raw in found] == ["a"]
    assert account.passed_over == {"name without extension": 2, "name without key": 2, "folder": 1}


@pytest.mark.parametrize(("kind", "remedy"), [(tarfile.SYMTYPE, "--dereference"), (tarfile.LNKTYPE, "--hard-deref")])
def test_a_sample_with_a_link_is_skipped(kind: bytes, remedy: str) -> None:
    (first, second), _ = raws("La.jpg", "La.txt", "b.jpg", kind=kind)
    assert first.skip
    assert first.skip.reason in ("symbolic link", "hard link")
    assert first.skip.detail.startswith("jpg names target: write the tar with " + remedy)
    assert first.fields == {}
    assert second.skip is None


def test_keys_with_dots_are_counted_each() -> None:
    names = [f"img_0.{score}.{ext}" for score in (512, 734, 8) for ext in ("jpg", "txt")]
    assert ends(*names, "b.jpg") == [
        ("img_0.512", ["512.jpg", "512.txt"], "dots in key"),
        ("img_0.734", ["734.jpg", "734.txt"], "dots in key"),
        ("img_0.8", ["8.jpg", "8.txt"], "dots in key"),
        ("b", ["jpg"], None),
    ]
    skip = raws(*names)[0][0].skip
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
    skip = raws("a.jpg", "b.jpg", "a.txt")[0][2].skip
    assert skip
    assert skip.detail == "jpg and txt do not lie side by side: sort the tar's members by name, as tar --sort=name does"


def test_more_members_than_any_sample_has_are_not_collected() -> None:
    members = [(f"a.{number}.jpg", b"") for number in range(1001)]
    assert len(list(raw_samples(scan(io.BytesIO(tar_bytes(members[:1000])), lambda name: True), Account(), 9))) == 1000
    with pytest.raises(ShardError, match=r"more than 1000 members have the key a, such as a\.1000\.jpg: a key ends at"):
        list(raw_samples(scan(io.BytesIO(tar_bytes(members)), lambda name: True), Account(), 9))
