"""An output that takes nothing more: a clear error, and no part of a shard to be seen."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dr_pipeline.cli import FAILURES, main
from dr_pipeline.errors import ConfigError
from dr_pipeline.runners.run import run
from tests.demo_job import QUICKSTART, Silent, demo_job, digests, make_scenes, small

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=6, samples_per_shard=20)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for two of the six shards."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk is mounted for this test, which needs the right to: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_the_run(scenes: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = small_disk.parent / "whole"
    run(demo_job(scenes, whole), Silent())
    assert main(["run", str(QUICKSTART), *small(scenes, small_disk / "out")]) == FAILURES
    shown = capsys.readouterr()
    assert "No space left on device" in shown.out
    assert shown.err.count("failed ") <= 2, "the other shards are not tried in vain"
    kept, expected = digests(small_disk / "out"), digests(whole)
    assert 0 < len(kept) < 6
    assert all(digest == expected[name] for name, digest in kept.items())
    assert not list(small_disk.rglob("*.tmp"))


def test_a_read_only_output_is_refused_before_models_load(scenes: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ConfigError, match=r"cannot be written: .*Read-only file system"):
        run(demo_job(scenes, small_disk / "out"), Silent())


def test_an_output_that_is_a_file_is_refused(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(ConfigError, match="cannot be written"):
        run(demo_job(scenes, tmp_path / "out"), Silent())
