"""The verbs that read a dataset, verify and inspect: exit codes, and what they print."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import call
from tests.conftest import GOLDEN
from tests.verification.datasets import write_dataset


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
    assert capsys.readouterr().out == "8 samples in 1 shards read: no problem\n"
    assert call("inspect", shard) == 0
    assert capsys.readouterr().out.startswith("v10000: 4 views, embeddings of 80 dims")


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
