"""verify names the shards that cannot be read to their end, or are not what their reports say."""

import gzip
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dr_pipeline.errors import ConfigError
from dr_pipeline.verification.findings import Findings
from tests.conftest import GOLDEN, rename_as_others_do, write_tar
from tests.tars import Member, read_members
from tests.verification.datasets import (
    found,
    write_dataset,
)


def test_where_there_is_nothing_to_read_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no shard here to verify"):
        found(tmp_path)
    with pytest.raises(ConfigError, match=r"absent\.tar: no shard here to verify"):
        found(tmp_path / "absent.tar")


def test_members_that_are_no_samples_do_no_harm(tmp_path: Path) -> None:
    golden = (GOLDEN / "shards" / "v2_bf16.tar").open("rb")
    with golden:
        members = list(read_members(golden))
    write_tar(tmp_path / "x.tar", [("README", b"hello"), *members, ("._v20000.jpg", b"x")])
    assert found(tmp_path / "x.tar") == Findings(1, 8, [])


@pytest.mark.parametrize("apart", [False, True])
def test_duplicate_keys_are_named(apart: bool, tmp_path: Path) -> None:
    def twice(key: str, members: list[Member]) -> list[Member]:
        again = "s1_0" if apart else "s1_1"
        if key != "s1_2":
            return members
        return [(name.replace("s1_2", again), data) for name, data in members]

    write_dataset(tmp_path, twice)
    assert found(tmp_path).problems == [("00/1.tar", "s1_0" if apart else "s1_1", "duplicate key")]


def test_scattered_members_and_links_are_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("a.jpg", "b.jpg", "a.txt"):
            archive.addfile(tarfile.TarInfo(name))
        for name, kind in (("c.jpg", tarfile.SYMTYPE), ("d.jpg", tarfile.LNKTYPE), ("folder", tarfile.DIRTYPE)):
            item = tarfile.TarInfo(name)
            item.type, item.linkname = kind, "a.jpg"
            archive.addfile(item)
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    problems = {(key, text) for _, key, text in found(tmp_path / "x.tar").problems}
    assert {
        (
            "a",
            "members not adjacent: jpg and txt do not lie side by side: sort the tar's members by name, as tar "
            "--sort=name does",
        ),
        ("c", "symbolic link: jpg names a.jpg: write the tar with --dereference"),
        ("d", "hard link: jpg names a.jpg: write the tar with --hard-dereference"),
    } <= problems
    assert {key for key, _ in problems} == {"a", "b", "c", "d"}


def test_a_truncated_tar_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    path = tmp_path / "00" / "0.tar"
    path.write_bytes(path.read_bytes()[:-1024])
    findings = found(tmp_path)
    ((shard, key, text),) = findings.problems
    assert (shard, key) == ("00/0.tar", "")
    assert text.startswith("truncated")
    assert (findings.num_shards, findings.num_samples) == (2, 3)


@pytest.mark.parametrize("content", [b"", b"<html>" * 200])
def test_a_file_that_is_no_tar_is_named(content: bytes, tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "00" / "0.tar").write_bytes(content)
    assert [(shard, key) for shard, key, _ in found(tmp_path).problems] == [("00/0.tar", "")]


def test_random_damage_never_stops_verify(tmp_path: Path) -> None:
    data = (GOLDEN / "shards" / "v2_bf16.tar").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "x.tar"
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, len(data), 30)] ^= rng.integers(1, 256, 30, dtype=np.uint8)
        path.write_bytes(damaged.tobytes())
        assert found(path).num_shards == 1


def test_a_changed_byte_that_breaks_nothing_is_seen_by_the_digest(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    path = tmp_path / "00" / "0.tar"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"alt-text of s0_0", b"alt-text of s9_9"))
    assert found(tmp_path).problems == [
        ("00/0.tar", "", "its SHA-256 is not the one that its report gives: the file was changed")
    ]
    path.write_bytes(data + b"\0" * 512)  # behind the end mark
    assert len(found(tmp_path).problems) == 1


def test_a_shard_that_was_packed_after_it_was_made_is_not_what_its_report_says(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    path = tmp_path / "00" / "0.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    ((name, _, problem),) = found(tmp_path).problems
    assert name == "00/0.tar"
    assert problem.startswith("its SHA-256 is not the one that its report gives")


def test_shards_are_read_under_the_names_that_others_give(tmp_path: Path) -> None:
    write_dataset(tmp_path, num_shards=3)
    for folder in ("reports", "manifest"):
        shutil.rmtree(tmp_path / folder)
    (tmp_path / "config.json").unlink()
    rename_as_others_do(tmp_path)
    (tmp_path / "00" / "gone.tar").symlink_to("nowhere")
    findings = found(tmp_path)
    assert findings.problems == [("00/gone.tar", "", "cannot be read: links that lead nowhere")]
    assert (findings.num_samples, findings.num_shards) == (9, 3)
    for name in ("0.TAR", "1.tar.gz", "2.tgz"):
        findings = found(tmp_path / "00" / name)
        assert (findings.problems, findings.num_samples) == ([], 3)
    (tmp_path / "00" / "1.tar.gz").write_bytes((tmp_path / "00" / "1.tar.gz").read_bytes()[:-20])
    assert found(tmp_path / "00" / "1.tar.gz").problems[0][2].startswith("the gzip file is cut or damaged")
