"""verify compares config.json, the reports and the manifest with each other and with the shards."""

import hashlib
import io
import json
import shutil
import threading
from pathlib import Path
from typing import BinaryIO

import pyarrow.parquet as pq
import pytest

from dr_pipeline.dataset import checksum, manifest
from dr_pipeline.storage import Storage
from dr_pipeline.verification.findings import Findings
from dr_pipeline.verification.verify import verify
from tests.conftest import GOLDEN
from tests.verification.datasets import (
    found,
    replace_shard,
    sample_members,
    write_dataset,
)


def test_a_sample_too_few_is_seen_by_the_report(tmp_path: Path) -> None:
    job = write_dataset(tmp_path)
    replace_shard(job, "00/1.tar", sample_members(job, "only"))
    assert found(tmp_path).problems == [
        ("00/1.tar", "", "1 sample, but its report says 3"),
        ("manifest/samples/00/1.parquet", "", "skips other samples than the shard's report counts"),
    ]


def test_a_shard_without_report_and_a_report_without_shard_are_named(tmp_path: Path) -> None:
    job = write_dataset(tmp_path, num_shards=3)
    (tmp_path / "reports" / job.fingerprint() / "00" / "1.json").unlink()
    (tmp_path / "00" / "2.tar").unlink()
    (first, _, no_report), (second, _, no_tar) = found(tmp_path).problems
    assert (first, second) == ("00/1.tar", "00/2.tar")
    assert no_report.startswith("no report: the shard was never committed")
    assert "the tar is missing" in no_tar


def test_shards_of_another_configuration_do_not_count(tmp_path: Path) -> None:
    job = write_dataset(tmp_path)
    (tmp_path / "reports" / job.fingerprint()).rename(tmp_path / "reports" / "0123456789ab")
    assert {text.partition(":")[0] for _, _, text in found(tmp_path).problems} == {"no report"}


def test_files_in_the_making_are_not_looked_at(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "00" / ".5.tar").write_bytes(b"half")
    report = next(tmp_path.rglob("reports/*/00/*.json"))
    report.with_name(f".{report.name}.1234.tmp").write_bytes(b'{"name": "0')
    assert found(tmp_path) == Findings(2, 6, [])


def test_views_of_another_writer_that_no_replay_can_make_are_named(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "shards" / "v2_bf16.tar", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"reinforce": {"image_augmentation": {"resize": {"size": 256}}}}))
    ((file, _, problem),) = found(tmp_path).problems
    assert file == "config.json"
    assert problem.startswith("the views were made with resize, which is not replayed here")


def test_a_manifest_that_a_run_left_unwritten_is_to_be_written_by_the_next(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "manifest" / "shards.parquet").unlink()
    ((file, _, problem),) = found(tmp_path).problems
    assert file == "manifest/shards.parquet"
    assert problem == "is missing: a run writes it at its end: run the job again where none runs now"


def test_a_table_of_shards_of_an_earlier_version_is_intact(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    path = tmp_path / "manifest" / "shards.parquet"
    pq.write_table(pq.read_table(path).drop_columns("finished_at"), path)
    (tmp_path / "config.json").unlink()  # else its digest of the table would differ
    assert not [problem for file, _, problem in found(tmp_path).problems if file == "manifest/shards.parquet"]


def test_a_table_of_samples_of_another_form_is_named(tmp_path: Path) -> None:
    job = write_dataset(tmp_path)
    path = tmp_path / "manifest" / "samples" / "00" / "1.parquet"
    pq.write_table(pq.read_table(path).drop_columns("members"), path)
    report = next(tmp_path.glob(f"reports/{job.fingerprint()}/00/1.json"))
    tree = checksum.load(report.read_bytes())
    tree["samples_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    report.write_bytes(checksum.dump(tree))
    assert found(tmp_path).problems == [
        ("manifest/samples/00/1.parquet", "", "its columns are not those of a table of samples")
    ]


class Watched(Storage):
    """A storage that notes which threads read its streams."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[threading.Thread] = set()

    def open(self, uri: str) -> BinaryIO:
        readers, stream = self.readers, super().open(uri)

        class Noted(io.RawIOBase):
            def readable(self) -> bool:
                return True

            def seekable(self) -> bool:
                return True

            def seek(self, *place: int) -> int:
                return stream.seek(*place)

            def readinto(self, buffer: memoryview) -> int:
                readers.add(threading.current_thread())
                return stream.readinto(buffer)  # type: ignore[attr-defined]

        return io.BufferedReader(Noted())


@pytest.mark.parametrize("damage", [b"", b"\xff"])
def test_no_thread_but_the_caller_s_reads(damage: bytes, tmp_path: Path) -> None:
    """A thread of pyarrow's that is in a stream when the process ends aborts it."""
    write_dataset(tmp_path)
    path = tmp_path / "manifest" / "shards.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:60] + damage + data[60 + len(damage) :])
    (tmp_path / "config.json").unlink()  # else its digest of the table would do
    storage = Watched()
    problems = verify(str(tmp_path), storage).problems
    assert len(problems) == (2 if damage else 1)
    if not damage:
        assert manifest.ShardTable(storage, str(tmp_path)).failed_before() == set()
    assert storage.readers == {threading.current_thread()}
