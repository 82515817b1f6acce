"""Whole runs in one process: manifest, resume, refusal, quarantine, and a kill in the middle."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from dr_pipeline.cli import main
from dr_pipeline.dataset.reports import Reports
from dr_pipeline.errors import ConfigError
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from dr_pipeline.verification.verify import verify
from tests.conftest import make_sample_members, rename_as_others_do, write_tar
from tests.demo_job import QUICKSTART, Silent, demo_job, digests, make_scenes, small
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished")
    run(demo_job(scenes, output), Silent())
    return output


def test_the_manifest_covers_every_sample(finished: Path) -> None:
    assert verify(str(finished), Storage()).problems == []
    config = json.loads((finished / "config.json").read_text())
    assert (config["num_samples"], config["dr_pipeline"]["num_samples"]) == (3, 15)
    assert [teacher["dim"] for teacher in config["dr_pipeline"]["teachers"]] == [64, 96]
    shards = pq.read_table(finished / "manifest" / "shards.parquet").to_pylist()
    assert [row["num_written"] for row in shards] == [5, 5, 5]
    tables = [finished / "manifest" / "samples" / Path(row["name"]).with_suffix(".parquet") for row in shards]
    for row, table in zip(shards, tables, strict=True):
        assert row["finished_at"] > table.stat().st_mtime - 0.01, "a shard ends once its table is there"
    samples = pyarrow.dataset.dataset(finished / "manifest" / "samples").to_table().to_pylist()
    assert len({(row["shard"], row["key"]) for row in samples}) == 15
    assert all(-1 <= row["similarity"] <= 1 and row["synthetic_captions"] == 2 for row in samples)


def test_a_second_run_does_only_what_is_missing(scenes: Path, finished: Path, tmp_path: Path) -> None:
    some = sorted(scenes.glob("*.tar"))[:2]
    first, second = Silent(), Silent()
    root = f"input.root={scenes}"
    run(demo_job(f"[{some[0]}, {some[1]}]", tmp_path, root), first)
    outcome = run(demo_job(scenes, tmp_path, root), second)
    assert (len(first.reports), len(second.reports)) == (2, 1)
    assert outcome.num_samples == 15
    assert digests(tmp_path) == digests(finished)
    assert len(pq.read_table(tmp_path / "manifest" / "shards.parquet")) == 3
    assert json.loads((tmp_path / "config.json").read_text())["dr_pipeline"]["num_samples"] == 15
    idle = Silent()
    run(demo_job(scenes, tmp_path, root), idle)
    assert idle.reports == []


def test_a_damaged_table_of_shards_is_written_anew(scenes: Path, finished: Path, tmp_path: Path) -> None:
    output, again = tmp_path / "out", Silent()
    shutil.copytree(finished, output)
    table = output / "manifest" / "shards.parquet"
    whole = table.read_bytes()
    for damaged in (whole[:40] + bytes(8) + whole[48:], whole[:-100]):
        table.write_bytes(damaged)
        run(demo_job(scenes, output), again)
        assert table.read_bytes() == whole
    assert again.reports == []
    assert verify(str(output), Storage()).problems == []


def test_capitals_and_gzip_give_the_shards_of_plain_tars(scenes: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "in")
    rename_as_others_do(tmp_path / "in")
    job = demo_job(tmp_path / "in", tmp_path / "out")
    run(job, Silent())
    assert digests(tmp_path / "out") == digests(finished)
    again = Silent()
    run(job, again)
    assert again.reports == []
    assert verify(str(tmp_path / "out"), Storage()).problems == []


def test_another_configuration_is_refused_by_key_unless_forced(scenes: Path, tmp_path: Path) -> None:
    run(demo_job(scenes, tmp_path), Silent())
    before = digests(tmp_path)
    changed = demo_job(scenes, tmp_path, "seed=1", "augmentation.num_views=2")
    with pytest.raises(ConfigError, match=r"seed: 0 → 1") as caught:
        run(changed, Silent())
    assert "augmentation.num_views: 3 → 2" in str(caught.value)
    assert digests(tmp_path) == before
    forced = Silent()
    run(changed, forced, force=True)
    assert len(forced.reports) == 3
    assert verify(str(tmp_path), Storage()).problems == []
    assert digests(tmp_path).keys() == before.keys()
    assert not set(digests(tmp_path).values()) & set(before.values())


def test_a_bad_shard_is_quarantined_and_named(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shards = tmp_path / "in"
    make_scenes(shards)
    (shards / "00001.tar").write_bytes((shards / "00001.tar").read_bytes()[:20_000])
    assert main(["run", str(QUICKSTART), *small(shards, tmp_path / "out")]) == 1
    assert "failed 00001.tar: truncated" in capsys.readouterr().out
    assert list(digests(tmp_path / "out")) == ["00000.tar", "00002.tar"]
    rows = pq.read_table(tmp_path / "out" / "manifest" / "shards.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    make_scenes(shards)
    assert main(["run", str(QUICKSTART), *small(shards, tmp_path / "out")]) == 0
    assert len(digests(tmp_path / "out")) == 3


def test_bad_shards_can_stop_the_run(tmp_path: Path) -> None:
    shards = make_scenes(tmp_path / "in")
    (shards / "00000.tar").write_bytes(b"<html>")
    seen = Silent()
    outcome = run(demo_job(shards, tmp_path / "out", "errors.bad_shard=stop"), seen)
    assert len(seen.reports) == 1
    assert "not a tar" in outcome.failed[0].error or "truncated" in outcome.failed[0].error


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "scenes", num_shards=8)
    run(demo_job(scenes, tmp_path / "whole"), Silent())
    output = tmp_path / "output"
    command = [sys.executable, "-m", "dr_pipeline", "run", str(QUICKSTART), *small(scenes, output)]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_until(lambda: list(output.rglob("reports/*/*.json")))
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    (output / f".00007.tar.{'0' * 32}.tmp").write_bytes(b"half a shard")
    done = {path.stem for path in output.rglob("reports/*/*.json")}
    assert 1 <= len(done) < 8
    again = Silent()
    run(demo_job(scenes, output), again)
    assert {Path(report.name).stem for report in again.reports}.isdisjoint(done)
    assert digests(output) == digests(tmp_path / "whole")
    assert verify(str(output), Storage()).problems == []
    assert list(output.rglob(".*")) == [], "what the killed run was writing is swept away"


def test_the_second_of_two_runs_is_told(scenes: Path, finished: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dr_pipeline", "run", str(QUICKSTART), *small(scenes, tmp_path)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "run.json").exists())
    first.send_signal(signal.SIGSTOP)  # it does not end meanwhile
    with pytest.raises(ConfigError, match=f"another run .process {first.pid} on"):
        run(demo_job(scenes, tmp_path), Silent())
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    assert not (tmp_path / "run.json").exists()
    assert digests(tmp_path) == digests(finished)


def test_sigterm_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "scenes", num_shards=8)
    output = tmp_path / "output"
    command = [sys.executable, "-m", "dr_pipeline", "run", str(QUICKSTART), *small(scenes, output)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: list(output.rglob("reports/*/*.json")))
    process.terminate()
    _, shown = process.communicate()
    assert process.returncode == 130
    assert "run the same command again to go on" in shown
    assert not (output / "run.json").exists()
    assert not list(output.rglob(".*"))


HANGS = '''
import time
from pathlib import Path

import torch

from dr_pipeline.models.protocol import TeacherSpec


class Teacher:
    """Has the last shard's texts on the device for an hour, while there is a file that says so."""

    def __init__(self, device, folder):
        self.spec = TeacherSpec(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=4)
        self.folder = Path(folder)

    def encode_images(self, images_BCHW):
        return torch.ones(len(images_BCHW), 4)

    def encode_texts(self, texts):
        if "hang" in texts and (self.folder / "hang").exists():
            (self.folder / "hangs").touch()
            time.sleep(3600)
        return torch.ones(len(texts), 4)
'''


def test_sigterm_in_a_batch_of_an_hour_ends_at_once_and_the_manifest_is_the_next_run_s(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    (tmp_path / "hang").touch()
    for index, caption in enumerate(["fine", "fine", "hang"]):  # of two at once, either may be first
        write_tar(tmp_path / "in" / f"{index}.tar", make_sample_members("a", caption))
    output = tmp_path / "output"
    overrides = [
        f"teachers=[{{use: 'hangs:Teacher', options: {{folder: '{tmp_path}'}}}}]",
        "captioners.0.num_captions=1",
        f"plugin_dirs=[{tmp_path}]",
    ]
    command = [sys.executable, "-m", "dr_pipeline", "run", str(QUICKSTART), *small(tmp_path / "in", output), *overrides]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (tmp_path / "hangs").exists())
    process.terminate()
    _, shown = process.communicate()
    assert process.returncode == 130
    assert "run the same command again to go on" in shown
    assert not (output / "run.json").exists()
    done = {path.name for path in output.rglob("*.tar")}
    assert done
    assert done <= {"0.tar", "1.tar"}
    (problem,) = verify(str(output), Storage()).problems
    assert "run the job again" in problem[2]
    (tmp_path / "hang").unlink()
    again = Silent()
    assert run(demo_job(tmp_path / "in", output, *overrides), again).num_samples == 3
    assert {report.name for report in again.reports} == {"0.tar", "1.tar", "2.tar"} - done
    assert verify(str(output), Storage()).problems == []
    assert not list(output.rglob(".*"))


def test_only_what_failed_is_done_again(scenes: Path, finished: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in scenes.glob("*.tar"))
    inputs = tmp_path / "in"
    shutil.copytree(scenes, inputs)
    whole = (inputs / names[0]).read_bytes()
    (inputs / names[0]).write_bytes(whole[:3000])
    outcome = run(demo_job(inputs, tmp_path / "out"), Silent())
    assert [report.name for report in outcome.failed] == names[:1]
    (inputs / names[0]).write_bytes(whole)
    for path in (tmp_path / "out" / "reports").rglob(names[1].replace(".tar", ".json")):
        path.unlink()  # not done, but it did not fail either
    again = Silent()
    run(demo_job(inputs, tmp_path / "out"), again, only_failed=True)
    assert [report.name for report in again.reports] == names[:1]
    run(demo_job(inputs, tmp_path / "out"), Silent())
    assert digests(tmp_path / "out") == digests(finished)


def test_the_reports_of_an_earlier_run_are_read_only_where_the_manifest_lacks_them(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(demo_job(scenes, tmp_path), Silent())
    table = tmp_path / "manifest" / "shards.parquet"
    whole = pq.read_table(table).to_pylist()
    read: list[set[str]] = []
    read_reports = Reports.read
    monkeypatch.setattr(Reports, "read", lambda reports, names: read.append(names) or read_reports(reports, names))
    run(demo_job(scenes, tmp_path), Silent())
    pq.write_table(pq.read_table(table).slice(1), table)  # as a run leaves it that dies before its end
    run(demo_job(scenes, tmp_path), Silent())
    table.unlink()
    outcome = run(demo_job(scenes, tmp_path), Silent())
    assert read == [set(), {whole[0]["name"]}, {row["name"] for row in whole}]
    assert pq.read_table(table).to_pylist() == whole
    assert (outcome.num_samples, outcome.num_shards) == (15, 3)


def test_equal_names_in_different_folders_do_not_collide(tmp_path: Path) -> None:
    for folder in ("00", "01"):
        make_scenes(tmp_path / "in" / folder, num_shards=1, samples_per_shard=2)
    outcome = run(demo_job(tmp_path / "in" / "{00,01}" / "00000.tar", tmp_path / "out"), Silent())
    assert list(digests(tmp_path / "out")) == ["00/00000.tar", "01/00000.tar"]
    assert outcome.num_samples == 4


def test_an_output_that_cannot_be_written_is_refused_before_models_load(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        run(demo_job(scenes, tmp_path / "file" / "out"), Silent())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teachers.0.dim=65", "dim"),
        ("teachers.1.image_size=64", "image_size"),
        ("teachers.0.options.weights=nowhere.safetensors", "nowhere.safetensors"),
        ("teachers.0.options.wieghts=x", "wieghts"),
    ],
)
def test_a_wrong_card_stops_at_start_naming_card_and_field(
    override: str, message: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["run", str(QUICKSTART), *small(scenes, tmp_path), override]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "scene_clip" in error
    assert not digests(tmp_path)


def test_a_pattern_that_matches_nothing_names_the_first_shard(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pattern = f"{tmp_path}/none/{{00000..00003}}.tar"
    assert main(["run", str(QUICKSTART), *small(pattern, tmp_path / "out")]) == 2
    assert f"{tmp_path}/none/00000.tar" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
