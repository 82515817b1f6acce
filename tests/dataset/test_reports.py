"""A report commits its shard under the configuration that made it."""

from dataclasses import replace
from pathlib import Path

from dr_pipeline.dataset.reports import Reports, ShardReport
from tests.conftest import make_job


def test_reports_are_commits_and_read_back(tmp_path: Path) -> None:
    job = make_job(output={"path": str(tmp_path)})
    reports = Reports.of(job)
    assert reports.shards() == set()
    report = ShardReport(
        "00/0013.tar",
        "s3://b/00/0013.tar",
        "done",
        job.fingerprint(),
        9,
        7,
        28,
        14,
        {"no text": 2},
        123,
        "ab",
        {"read": 1.5},
    )
    for name in ("00/0013.tar", "01/0013.tar"):
        reports.commit(replace(report, name=name))
    assert Reports.of(job).shards() == {"00/0013.tar", "01/0013.tar"}
    assert [*Reports.of(job).read(["00/0013.tar", "01/0013.tar"])] == [report, replace(report, name="01/0013.tar")]
    assert reports.find("00/0013.tar") == report
    assert (tmp_path / "reports" / job.fingerprint() / "00" / "0013.json").is_file()
    assert Reports.of(make_job(output={"path": str(tmp_path)}, seed=2)).shards() == set()
    reports.withdraw("00/0013.tar")
    assert (reports.shards(), reports.find("00/0013.tar")) == ({"01/0013.tar"}, None)
