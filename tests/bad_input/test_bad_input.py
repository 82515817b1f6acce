"""Every kind of the corpus through the real worker: it ends as the table says, and takes nobody along."""

import hashlib
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.dataset.reports import ShardReport, ShardTask
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.demo.scenes import draw_scene
from dr_pipeline.reinforce.worker import Worker
from dr_pipeline.storage import Storage
from dr_pipeline.verification.findings import Findings
from dr_pipeline.verification.inputs import InputComparison
from dr_pipeline.verification.verify import verify
from tests.bad_input.corpus import KINDS
from tests.bad_input.corpus.kind import MAX_IMAGE_PIXELS, MAX_MEMBER_BYTES, MAX_SKIPPED, Kind
from tests.bad_input.page import page
from tests.conftest import tar_bytes
from tests.demo_job import REPOSITORY, demo_job
from tests.tars import Member, group, read_members

PAGE = REPOSITORY / "docs" / "bad_input.md"


def good(index: int, key: str) -> list[Member]:
    scene = draw_scene(7, index)
    return [(f"{key}.jpg", scene.jpeg), (f"{key}.txt", scene.alt_text.encode()), (f"{key}.json", b'{"uid": 1}')]


BEFORE, AFTER = good(0, "00"), good(1, "zz")


class Bench:
    """A worker that stays loaded, and a folder with its input and its output."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.write("good", tar_bytes(BEFORE + AFTER))
        job = demo_job(
            folder / "in",
            folder / "out",
            "augmentation.num_views=2",
            "captioners.0.num_captions=1",
            # Nobody shares a batch with a bad one, so bits can be compared.
            *("workers.view_batch=2", "workers.caption_batch=1", "workers.text_batch=1"),
            f"errors.max_skipped={MAX_SKIPPED}",
            f"errors.max_image_pixels={MAX_IMAGE_PIXELS}",
            f"errors.max_member_bytes={MAX_MEMBER_BYTES}",
        )
        self._plan = make_plan(job)
        self._worker = Worker(self._plan.job)
        self._worker.load()
        assert self.run("good").status == "done"

    def write(self, name: str, data: bytes) -> None:
        path = self.folder / "in" / f"{name}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)

    def run(self, name: str) -> ShardReport:
        return self._worker.run(ShardTask(f"{name}.tar", str(self.folder / "in" / f"{name}.tar"), None))

    def written(self, name: str) -> set[str]:
        """What belongs to a published shard."""
        reports = f"out/reports/{self._plan.job.fingerprint()}"
        return {f"out/{name}.tar", f"out/manifest/samples/{name}.parquet", f"{reports}/{name}.json"}

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file there is, and when it was last written."""
        return {
            str(path.relative_to(self.folder)): (path.stat().st_mtime_ns, path.stat().st_ino)
            for path in self.folder.rglob("*")
            if not path.is_dir()
        }

    def samples(self, name: str) -> list[tuple[str, dict[str, bytes]]]:
        with (self.folder / "out" / f"{name}.tar").open("rb") as stream:
            return group(read_members(stream))

    def rows(self, name: str) -> list[dict[str, Any]]:
        return pq.read_table(self.folder / "out" / "manifest" / "samples" / f"{name}.parquet").to_pylist()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bad_input"))


def slug(kind: Kind) -> str:
    return hashlib.sha256(kind.name.encode()).hexdigest()[:12]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
def test_it_ends_as_the_table_says(kind: Kind, bench: Bench) -> None:
    name = slug(kind)
    bench.write(name, kind.make(BEFORE, AFTER))
    files = bench.files()
    report = bench.run(name)
    new = bench.files()
    assert files.items() <= new.items()  # what was there is untouched
    if any(end.startswith("shard fails: ") for end in kind.ends):
        assert report.status == "failed"
        assert kind.ends[0].removeprefix("shard fails: ") in (report.error or "")
        assert new == files
        return
    assert (report.status, report.error) == ("done", None)
    assert new.keys() - files.keys() == bench.written(name)
    check_manifest(kind, bench.rows(name), report)
    check_members(bench, name, report)
    check_samples(kind, bench)
    assert verify(str(bench.folder / "out" / f"{name}.tar"), Storage()).problems == []


def check_manifest(kind: Kind, rows: list[dict[str, Any]], report: ShardReport) -> None:
    """Every input sample exactly once, with its reason."""
    ends = ["skipped: " + row["skip_reason"] if row["skip_reason"] else "reinforced" for row in rows]
    assert sorted(ends) == sorted([*kind.ends, "reinforced", "reinforced"])
    assert report.num_read == len(rows)
    assert report.num_written == ends.count("reinforced")
    reinforced = [row["key"] for row in rows if row["skip_reason"] is None]
    assert len(set(reinforced)) == len(reinforced)


def check_members(bench: Bench, name: str, report: ShardReport) -> None:
    """Every member of the input exactly once; a second count finds the same."""
    members_by_key = Counter[str]()
    for row in bench.rows(name):
        members_by_key[row["key"]] += row["members"]
    with tarfile.open(bench.folder / "in" / f"{name}.tar") as archive:
        num_members = len(archive.getmembers())
    assert members_by_key.total() + sum(report.passed_over.values()) == report.num_members == num_members
    findings = Findings()
    inputs = InputComparison(None, findings)
    inputs.check(report, members_by_key)
    inputs.close(set())
    assert findings == Findings()


def check_samples(kind: Kind, bench: Bench) -> None:
    """The good ones are those of a shard of their own, to the last bit; the bad one's input is untouched."""
    samples = bench.samples(slug(kind))
    keys = [row["key"] for row in bench.rows(slug(kind)) if row["skip_reason"] is None]
    assert [key for key, _ in samples] == keys
    expected = dict(bench.samples("good"))
    for key, fields in samples:
        if key in expected:
            assert fields == expected[key], key
    (input_tar,) = bench.folder.glob(f"in/{slug(kind)}.tar")
    with input_tar.open("rb") as stream:
        given: dict[str, dict[str, bytes]] = {}
        for sample in read_samples(stream, max_member_bytes=MAX_MEMBER_BYTES):
            given.setdefault(sample.key, sample.members)
    for key, fields in samples:
        passed = {
            ext: data for ext, data in given[key].items() if ext not in ("syn.json", "paug.json", "pth.gz", "npz")
        }
        assert passed.items() <= fields.items()


def test_a_tar_without_members_is_done_with_nothing_in_it(bench: Bench) -> None:
    bench.write("empty", tar_bytes([]))
    report = bench.run("empty")
    assert (report.status, report.num_read, bench.samples("empty"), bench.rows("empty")) == ("done", 0, [], [])


def test_names_are_unique_and_there_are_enough() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 40


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.bad_input.page > docs/bad_input.md"
