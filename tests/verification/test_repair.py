"""`verify --repair` makes exactly the damaged again, to the same bytes."""

import shutil
from pathlib import Path

import pytest

from dr_pipeline.cli import main
from dr_pipeline.errors import ConfigError
from dr_pipeline.runners.run import run
from dr_pipeline.verification.repair import repair
from tests.demo_job import QUICKSTART, Silent, demo_job, digests, make_scenes, small
from tests.verification.datasets import found


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=3, samples_per_shard=2)


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished")
    run(demo_job(scenes, output), Silent())
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "out")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def files(output: Path) -> dict[str, tuple[int, bytes]]:
    """What may not change: path → time of writing and content of the published shards and their reports."""
    kept = [path for path in output.rglob("*") if path.suffix in {".tar", ".json"} and path.name != "config.json"]
    return {str(path.relative_to(output)): (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}


def report_of(output: Path, shard: int) -> Path:
    return next(output.rglob(f"reports/*/0000{shard}.json"))


def test_exactly_the_damaged_shards_are_made_again(scenes: Path, finished: Path, output: Path) -> None:
    flip(output / "00001.tar")
    before, seen = files(output), Silent()
    outcome = repair(demo_job(scenes, output), found(output), seen)
    assert [report.name for report in seen.reports] == ["00001.tar"]
    assert (outcome.num_samples, outcome.num_shards) == (6, 3)
    assert digests(output) == digests(finished)
    assert found(output).problems == []
    changed = {name for name, content in files(output).items() if before[name] != content}
    assert changed == {"00001.tar", str(report_of(output, 1).relative_to(output))}


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("reports/*/00002.json", ["00002.tar"]),
        ("manifest/samples/00000.parquet", ["00000.tar"]),
        ("manifest/shards.parquet", []),
        ("config.json", []),
    ],
)
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_damaged_and_missing_tables_and_config_are_made_again(
    path: str, made: list[str], damage: object, scenes: Path, finished: Path, output: Path
) -> None:
    damage(next(output.glob(path)))  # type: ignore[operator]
    seen = Silent()
    repair(demo_job(scenes, output), found(output), seen)
    assert [report.name for report in seen.reports] == made
    assert found(output).problems == []
    assert (output / "config.json").read_bytes().partition(b"manifest_sha256")[0] == (
        finished / "config.json"
    ).read_bytes().partition(b"manifest_sha256")[0]


def test_a_table_of_a_shard_that_is_not_there_goes(scenes: Path, output: Path) -> None:
    stray = output / "manifest" / "samples" / "00009.parquet"
    shutil.copy(output / "manifest" / "samples" / "00001.parquet", stray)
    assert found(output).bad_files == {"manifest/samples/00009.parquet"}
    repair(demo_job(scenes, output), found(output), Silent())
    assert not stray.exists()


def test_shards_that_were_never_done_are_left_to_a_run(scenes: Path, tmp_path: Path) -> None:
    root = f"input.root={scenes}"
    run(demo_job(f"[{scenes}/00000.tar, {scenes}/00002.tar]", tmp_path, root), Silent())
    flip(tmp_path / "00002.tar")
    seen = Silent()
    repair(demo_job(scenes, tmp_path, root), found(tmp_path), seen)
    assert [report.name for report in seen.reports] == ["00002.tar"]
    assert sorted(digests(tmp_path)) == ["00000.tar", "00002.tar"]


def test_another_job_repairs_nothing(scenes: Path, output: Path) -> None:
    flip(output / "00001.tar")
    before = files(output)
    with pytest.raises(ConfigError, match=r"seed: 0 → 1"):
        repair(demo_job(scenes, output, "seed=1"), found(output), Silent())
    flip(output / "config.json")
    with pytest.raises(ConfigError, match="no reports of this job"):
        repair(demo_job(scenes, output, "seed=1"), found(output), Silent())
    with pytest.raises(ConfigError, match=r"does not name 1 damaged shard, first 00001\.tar"):
        repair(demo_job(f"{scenes}/00000.tar", output), found(output), Silent())
    assert files(output) == before


def test_by_the_command_line(scenes: Path, output: Path, capsys: pytest.CaptureFixture) -> None:
    flip(output / "00000.tar")
    assert main(["verify", str(output)]) == 1
    assert main(["verify", str(output), "--repair"]) == 2
    assert "--job" in capsys.readouterr().err
    job = ["--job", str(QUICKSTART), *small(scenes, "elsewhere")]
    assert main(["verify", str(output), "--repair", *job]) == 0
    assert "6 samples in 3 shards" in capsys.readouterr().out
    assert main(["verify", str(output), *job]) == 0


def test_a_run_that_finds_a_changed_config_writes_it_anew(scenes: Path, finished: Path, output: Path) -> None:
    """Written again with a checksum of its own, the damage would never show again."""
    config = output / "config.json"
    config.write_text(config.read_text().replace('"enable": true', '"enable": false'))
    run(demo_job(scenes, output), Silent())
    assert found(output).problems == []
    assert '"enable": true' in config.read_text()
