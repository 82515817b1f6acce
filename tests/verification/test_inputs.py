"""verify counts the members of the input again, where it can reach it, and says where it cannot."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dr_pipeline.config.job import Job
from dr_pipeline.dataset import manifest
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.dataset.reports import Reports
from dr_pipeline.storage import Storage
from dr_pipeline.verification.findings import Findings
from dr_pipeline.verification.verify import verify
from tests.conftest import write_tar
from tests.tars import Member, read_members
from tests.verification.datasets import write_dataset

FILE, TABLE = "00/1.tar", "manifest/samples/00/1.parquet"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return write_dataset(tmp_path / "out")


def found(job: Job, using: Job | None = None) -> Findings:
    return verify(job.output.path, Storage(), job=using)


def input_of(job: Job) -> Path:
    return Path(f"{job.output.path}.in")


def change(job: Job, *more: Member, without: str = "") -> None:
    """Another input in the place of the second shard's."""
    path = input_of(job) / FILE
    with path.open("rb") as file:
        members = [member for member in read_members(file) if member[0] != without]
    write_tar(path, [*members, *more])


def rewrite(job: Job, num_samples: int = 6, **changes: Any) -> None:
    """Another report of the second shard, and the tables that go with it."""
    report = Reports.of(job).find(FILE)
    assert report
    report = replace(report, **changes)
    Reports.of(job).commit(report)
    table = manifest.ShardTable(Storage(), job.output.path)
    table.carry_over({"00/0.tar"}, job.fingerprint())
    table.add([report])
    ConfigJson(job).write_totals(num_samples, table.publish())


def naming(job: Job, folder: Path) -> Job:
    """A job that reads its input from this folder."""
    return job.model_copy(update={"input": job.input.model_copy(update={"shards": str(folder)})})


def test_an_input_that_is_as_it_was_gives_no_word(job: Job) -> None:
    assert found(job) == Findings(2, 6, [])
    assert found(job, naming(job, input_of(job))) == Findings(2, 6, [])


@pytest.mark.parametrize(
    ("more", "without", "key", "words"),
    [
        ([("new.jpg", b"")], "", "", "its input now has 11 members, 1 of them no sample's; its report counts 10 and 1"),
        ([], "s1_1.json", "", "its input now has 9 members, 1 of them no sample's; its report counts 10 and 1"),
        ([("LICENCE", b"")], "s1_1.json", "", "its input now has 10 members, 2 of them no sample's"),
        ([("new.jpg", b"")], "s1_1.txt", "new", "its input now has 1 member of this key, its table of samples 0"),
        ([("s1_2.cls", b"")], "s1_1.txt", "s1_1", "its input now has 2 members of this key, its table of samples 3"),
    ],
)
def test_what_reports_and_manifest_do_not_know_is_named(
    more: list[Member], without: str, key: str, words: str, job: Job
) -> None:
    change(job, *more, without=without)
    ((file, hit, text),) = found(job).problems
    assert (file, hit) == (FILE, key)
    assert text.startswith(words)


def test_an_input_that_is_not_there_is_said(job: Job) -> None:
    (input_of(job) / FILE).unlink()
    findings = found(job)
    assert findings.problems == []
    (remark,) = findings.remarks
    assert remark.startswith("the input of 1 shard could not be counted again, first 00/1.tar: FileNotFoundError: no f")
    assert "--job" in remark


def test_an_input_that_is_damaged_now_is_no_fault_of_the_dataset(job: Job) -> None:
    path = input_of(job) / FILE
    path.write_bytes(path.read_bytes()[:-1024])
    findings = found(job)
    assert findings.problems == []
    assert "first 00/1.tar: ShardError: truncated" in findings.remarks[0]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/x.tar", "file:///etc/passwd", "/dev/zero", "memory://x.tar"])
def test_what_a_report_names_is_not_fetched(uri: str, job: Job) -> None:
    rewrite(job, uri=uri)
    findings = found(job)
    assert findings.problems == []
    assert f"FileNotFoundError: no file of this machine: {uri}" in findings.remarks[0]
    assert found(job, naming(job, input_of(job))) == Findings(2, 6, [])


def test_a_job_knows_where_the_input_lies_now_and_what_is_left_to_do(job: Job, tmp_path: Path) -> None:
    moved = Path(shutil.move(input_of(job), tmp_path / "moved"))
    assert len(found(job).remarks) == 1
    assert found(job, naming(job, moved)) == Findings(2, 6, [])
    write_tar(moved / "00" / "7.tar", [("a.jpg", b"")])
    assert found(job, naming(job, moved)).remarks == ["not done of the job's input: 1 shard, first 00/7.tar"]
    (moved / "00" / "0.tar").unlink()
    assert "first 00/0.tar: FileNotFoundError: the job does not name it" in found(job, naming(job, moved)).remarks[0]
    assert (
        found(job, naming(job, tmp_path / "nowhere")).remarks[0].startswith("the job's input cannot be listed: input.")
    )


def test_a_report_that_does_not_add_up_is_named(job: Job) -> None:
    rewrite(job, num_members=11)
    problems = found(job).problems
    assert problems[0] == (
        TABLE,
        "",
        "its samples have 9 members, and 1 were passed over, but the shard's report counts 11",
    )
    assert problems[1][0] == FILE  # nor is it what the input has


def test_a_shard_that_holds_nothing_is_said(job: Job) -> None:
    write_tar(input_of(job) / FILE, [])
    empty = write_tar(Path(job.output.path) / FILE, [])
    rewrite(
        job,
        num_samples=3,
        **dict.fromkeys(("num_read", "num_written", "num_members"), 0),
        passed_over={},
        sha256=hashlib.sha256(empty.read_bytes()).hexdigest(),
        samples_sha256=manifest.write_sample_table(Storage(), job.output.path, FILE, []),
    )
    assert found(job) == Findings(2, 3, [], remarks=["no sample, for the input is empty, in 1 shard, first 00/1.tar"])
