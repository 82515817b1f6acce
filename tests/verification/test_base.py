"""verify checks shards without images against the dataset that they were made from."""

import shutil
from pathlib import Path

import pytest

from dr_pipeline.config.training import Base
from dr_pipeline.dataset.base_index import BaseReader, open_index
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage
from dr_pipeline.verification.findings import Findings
from dr_pipeline.verification.verify import verify
from tests.conftest import write_tar
from tests.tars import Member, read_members
from tests.verification.datasets import HIT, NO_IMAGES, Change, found, replaced_views, write_dataset


def published(folder: Path, base: Path, with_config: bool = True, change: Change | None = None) -> Path:
    """A dataset without images and texts, as others publish theirs, and the base that has both."""
    kept: dict[str, list[Member]] = {}

    def part(key: str, members: list[Member]) -> list[Member]:
        kept[key] = [member for member in members if member[0].endswith((".jpg", ".txt", f"{key}.json"))]
        rest = [member for member in members if not member[0].endswith((".jpg", ".txt"))]
        return change(key, rest) if change else rest

    write_dataset(folder, part)
    write_tar(base, [member for members in kept.values() for member in members])
    if not with_config:
        for name in ("config.json", "reports", "manifest"):
            path = folder / name
            path.unlink() if path.is_file() else shutil.rmtree(path)
    return folder


def with_base(dataset: Path, base: Path, match: str = "key") -> Findings:
    index = open_index(Base(shards=str(base), match=match), base.parent / "cache")
    return verify(str(dataset), Storage(), BaseReader(index))


@pytest.mark.parametrize("with_config", [True, False])
def test_shards_published_without_images_are_checked_against_their_base(with_config: bool, tmp_path: Path) -> None:
    dataset = published(tmp_path / "out", tmp_path / "base.tar", with_config)
    alone = found(dataset)
    assert (len(alone.problems), alone.remarks) == (2 * 6, [NO_IMAGES])
    assert with_base(dataset, tmp_path / "base.tar") == Findings(2, 6, [])


def test_a_view_that_does_not_fit_the_bases_image_is_named(tmp_path: Path) -> None:
    dataset = published(
        tmp_path / "out", tmp_path / "base.tar", change=replaced_views(lambda entries: entries[0][0].clear())
    )
    damaged = published(
        tmp_path / "other",
        tmp_path / "base.tar",
        change=replaced_views(lambda entries: entries[2][0].__setitem__(0, 30)),
    )
    ((_, key, text),) = with_base(damaged, tmp_path / "base.tar").problems
    assert (key, text[:8]) == (HIT, "view 2: ")
    assert "bad paug.json" in with_base(dataset, tmp_path / "base.tar").problems[0][2]


def test_samples_that_the_base_lacks_are_counted_unless_it_lacks_all_of_a_shard(tmp_path: Path) -> None:
    dataset = published(tmp_path / "out", tmp_path / "base.tar")
    with (tmp_path / "base.tar").open("rb") as file:
        members = list(read_members(file))
    write_tar(tmp_path / "part.tar", [member for member in members if member[0][:4] in ("s0_0", "s1_0", "s1_1")])
    findings = with_base(dataset, tmp_path / "part.tar")
    assert (findings.problems, findings.remarks) == ([], ["no image to check, for the base lacks it, of 3 samples"])
    write_tar(tmp_path / "wrong.tar", [member for member in members if member[0].startswith("s0")])
    ((file_name, _, text),) = with_base(dataset, tmp_path / "wrong.tar").problems
    assert (file_name, text[:36]) == ("00/1.tar", "none of its 3 samples is in the base")


def test_a_base_that_cannot_be_read_is_no_fault_of_the_dataset(tmp_path: Path) -> None:
    dataset = published(tmp_path / "out", tmp_path / "base.tar")
    index = open_index(Base(shards=str(tmp_path / "base.tar"), match="key"), tmp_path / "cache")
    (tmp_path / "base.tar").unlink()
    with pytest.raises(ConfigError, match=r"--base: .*cannot be read"):
        verify(str(dataset), Storage(), BaseReader(index))
