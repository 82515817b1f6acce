"""The verbs that read a dataset, verify and inspect: exit codes, and what they print."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import call
from tests.conftest import GOLDEN
from tests.verification.datasets import replaced, write_dataset


def test_verify_lists_problems_by_shard_and_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(folder / "bad", lambda key, members: members[1:] if key == "s1_2" else members)
    (folder / "bad" / "00" / "0.tar").write_bytes(b"")
    assert call("verify", "bad") == 1
    assert capsys.readouterr().out.splitlines() == [
        "00/0.tar: the file is empty: copy or download it again",
        "00/1.tar: s1_2: no image: a consumer drops the sample",
        "3 samples in 2 shards read: 2 problems",
    ]
    assert call("verify", "bad", "--json") == 1
    assert json.loads(capsys.readouterr().out)["problems"][1] == [
        "00/1.tar",
        "s1_2",
        "no image: a consumer drops the sample",
    ]


def test_verify_and_inspect_take_a_single_tar_of_any_writer(capsys: pytest.CaptureFixture[str]) -> None:
    shard = str(GOLDEN / "shards" / "v1_bf16.tar")
    assert call("verify", shard) == 0
    assert capsys.readouterr().out == "8 samples in 1 shard read: no problem\n"
    assert call("inspect", shard) == 0
    assert capsys.readouterr().out.startswith("v10000: 4 views, embeddings of 80 dims")


def test_inspect_shows_a_key_a_shard_json_and_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml") == 0
    capsys.readouterr()
    assert call("inspect", "out", "--key", "1_2") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["1_2 lies in 1.tar, by the manifest", "1_2: 4 views, embeddings of 8 dims"]
    assert call("inspect", "out", "--shard", "1.tar", "--count", "1") == 0
    assert "\n1_0: 4 views" in capsys.readouterr().out
    assert call("inspect", "out", "--shard", "1.tar", "--count", "2", "--json", "--views", "sheet.png") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["key"] for record in records] == ["1_0", "1_1"]
    assert records[0]["captions"]["syn_text"][0]["similarities"].keys() == {"clip3", "clip5"}
    assert Path("sheet.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_tells_programs_which_sample_is_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(folder / "bad", replaced("paug.json", lambda data: b"{"))
    assert call("inspect", "bad", "--shard", "00/1.tar", "--json", "--views", "sheet.png") == 1
    problems = [json.loads(line)["problem"] for line in capsys.readouterr().out.splitlines()]
    assert [problem is None for problem in problems] == [True, False, True]
    assert Path("sheet.png").exists()
    assert call("inspect", "bad", "--shard", "00/1.tar") == 1
    assert "00/1.tar: bad paug.json: " in capsys.readouterr().err


def test_inspect_says_what_is_there_in_place_of_what_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml") == 0
    for words, told in {
        ("--key", "1_7"): "no sample '1_7'; keys are such as '1_0', '1_1', '1_2'; did you mean 1_",
        ("--shard", "7.tar"): "no shard 7.tar; did you mean ",
        ("--views", "sheet.jpg"): "a contact sheet is a PNG: name it sheet.jpg.png",
    }.items():
        assert call("inspect", "out", *words) == 2
        assert told in capsys.readouterr().err


def test_verify_looks_omitted_images_up_in_the_base(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DR_PIPELINE_CACHE", str(folder / "cache"))
    images = write_dataset(folder / "whole").output.path
    write_dataset(folder / "omitted", output={"images": "omit"})
    assert call("verify", "omitted", "--base", images, "--base-match", "key") == 0
    assert capsys.readouterr().out == "6 samples in 2 shards read: no problem\n"
    assert call("verify", "omitted", "--base", images) == 2  # nobody has a uid
    assert call("verify", "omitted", "--base", images, "--base-match", "no word") == 2
    assert call("verify", "omitted", "--base", "absent", "--base-storage", "auto_mkdir=1") == 2
    assert call("verify", "omitted", "--base-match", "key") == 2
    assert capsys.readouterr().err.count("error: --base: ") == 3


def test_verify_takes_overrides_of_a_job_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml") == 0
    assert call("verify", "out", "--job", "job.yaml", "--json", "seed=1") == 0
    assert call("verify", "out", "--job", "job.yaml", "sed=1") == 2
    assert call("verify", "out", "seed=1") == 2
    assert capsys.readouterr().err.endswith("error: seed=1: overrides change a job file: name it by --job\n")


def test_storage_options_reach_the_storage(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(GOLDEN / "shards" / "v1_bf16.tar", "one.tar")
    assert call("verify", "one.tar", "--storage", "auto_mkdir=1", "--storage", "key=a=b") == 0
