"""The manifest's tables have fixed columns and types, whatever is in them."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from dr_pipeline.dataset import manifest
from dr_pipeline.dataset.manifest import SampleRow
from dr_pipeline.dataset.paths import OutputPaths
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.errors import ShardError
from dr_pipeline.storage import Storage

ROWS = [
    SampleRow("größe/1", 3, captions=1, synthetic_captions=5, similarity=0.25, synthetic_similarity=0.5),
    SampleRow("2", skip_reason="filtered", skip_detail="dfn: 0.5 is below 0.75", scores={"dfn": 0.5, "größe": -1.0}),
    SampleRow("caf\\xe9", skip_reason="unsafe name", skip_detail=""),
]
SAMPLE_TYPES = {
    "key": "string",
    "shard": "string",
    "members": "int32",
    "captions": "int32",
    "synthetic_captions": "int32",
    "similarity": "float",
    "synthetic_similarity": "float",
    "skip_reason": "string",
    "skip_detail": "string",
    "poor_captions": "string",
    "scores": "map<string, float ('scores')>",
}


def types(schema: pa.Schema) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def test_samples(tmp_path: Path) -> None:
    manifest.write_sample_table(Storage(), str(tmp_path), "00/0013.tar", ROWS)
    path = tmp_path / "manifest" / "samples" / "00" / "0013.parquet"
    assert str(path) == OutputPaths(str(tmp_path)).samples("00/0013.tar")
    table = pq.read_table(path)
    assert types(table.schema) == SAMPLE_TYPES
    records = table.to_pylist()
    assert [record["key"] for record in records] == ["größe/1", "2", "caf\\xe9"]
    assert {record["shard"] for record in records} == {"00/0013.tar"}
    assert [record["members"] for record in records] == [3, 0, 0]
    assert (records[0]["captions"], records[0]["synthetic_captions"]) == (1, 5)
    assert (records[0]["similarity"], records[0]["synthetic_similarity"]) == (0.25, 0.5)
    assert (records[1]["captions"], records[1]["similarity"]) == (0, None)
    assert (records[1]["skip_reason"], records[1]["skip_detail"]) == ("filtered", "dfn: 0.5 is below 0.75")
    assert [dict(record["scores"]) for record in records] == [{}, {"dfn": 0.5, "größe": -1.0}, {}]
    assert records[0]["skip_reason"] is None


def test_the_folder_of_sample_tables_is_one_table_even_where_columns_are_empty(tmp_path: Path) -> None:
    manifest.write_sample_table(Storage(), str(tmp_path), "a.tar", ROWS[:1])
    manifest.write_sample_table(Storage(), str(tmp_path), "b.tar", ROWS[1:])
    manifest.write_sample_table(Storage(), str(tmp_path), "sub/c.tar", [])
    table = ds.dataset(tmp_path / "manifest" / "samples").to_table()
    assert types(table.schema) == SAMPLE_TYPES
    assert sorted(table["shard"].to_pylist()) == ["a.tar", "b.tar", "b.tar"]


def test_shards_are_sorted_and_hold_every_field_of_the_report(tmp_path: Path) -> None:
    done = ShardReport("b.tar", "s3://b", "done", "f", 9, 7, 28, 14, {"no text": 2}, 2**40, "ab", {"read": 1.5})
    done = replace(done, num_members=30, passed_over={"folder": 3}, finished_at=1.7e9)
    failed = ShardReport("a.tar", "s3://a", "failed", "f", error="truncated")
    shards = manifest.ShardTable(Storage(), str(tmp_path))
    shards.add(iter([done, replace(failed, error="an earlier try")]))
    shards.add([failed])
    shards.publish()
    assert shards.totals() == manifest.Totals(9, 7, 28, 14, 2**40, 1, "b.tar", 1)
    table = pq.read_table(tmp_path / "manifest" / "shards.parquet")
    assert types(table.schema) == {
        **dict.fromkeys(("name", "uri", "status", "fingerprint"), "string"),
        **dict.fromkeys(("num_read", "num_written", "num_views", "num_synthetic"), "int64"),
        **dict.fromkeys(("skipped", "passed_over"), "string"),
        **dict.fromkeys(("num_members", "size_bytes"), "int64"),
        **dict.fromkeys(("sha256", "seconds", "usage", "error"), "string"),
        "finished_at": "double",
    }
    first, second = table.to_pylist()
    assert (first["name"], first["status"], first["error"], first["sha256"]) == ("a.tar", "failed", "truncated", None)
    assert (second["num_read"], second["num_written"], second["size_bytes"]) == (9, 7, 2**40)
    assert json.loads(second["skipped"]) == {"no text": 2}
    assert (second["num_members"], json.loads(second["passed_over"])) == (30, {"folder": 3})
    assert json.loads(second["seconds"]) == {"read": 1.5}
    assert (first["finished_at"], second["finished_at"]) == (None, 1.7e9)


def published(folder: Path, *reports: ShardReport) -> None:
    table = manifest.ShardTable(Storage(), str(folder))
    table.add(reports)
    table.publish()


def names(folder: Path) -> list[str]:
    return pq.read_table(folder / "manifest" / "shards.parquet")["name"].to_pylist()


def test_a_later_run_takes_over_the_rows_of_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_PAGE_ROWS", 3)
    done = [ShardReport(f"{i}.tar", "u", "done", "f", num_written=i, skipped={"no text": i}) for i in range(8)]
    published(tmp_path, *done, ShardReport("8.tar", "u", "failed", "f"), ShardReport("9.tar", "u", "done", "other"))
    before = pq.read_table(tmp_path / "manifest" / "shards.parquet").to_pylist()
    table = manifest.ShardTable(Storage(), str(tmp_path))
    assert table.carry_over({f"{i}.tar" for i in range(12)}, "f") == {"8.tar", "9.tar", "10.tar", "11.tar"}
    assert len(names(tmp_path)) == 10, "nothing is to be done again: what is published stays until the end"
    assert (table.totals().num_written, table.totals().num_shards) == (28, 8)
    assert table.totals().first_shard == "1.tar"  # 0.tar holds no sample
    table.publish()
    assert pq.read_table(tmp_path / "manifest" / "shards.parquet").to_pylist() == before[:8]


def test_rows_of_shards_that_are_done_again_go_before_their_work_begins(tmp_path: Path) -> None:
    published(tmp_path, *(ShardReport(f"{i}.tar", "u", "done", "f") for i in range(3)))
    table = manifest.ShardTable(Storage(), str(tmp_path))
    assert table.carry_over({"0.tar", "2.tar"}, "f") == set()
    assert names(tmp_path) == ["0.tar", "2.tar"]


def test_a_table_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    published(tmp_path, ShardReport("0.tar", "u", "done", "f", num_written=3), ShardReport("1.tar", "u", "failed", "f"))
    path = tmp_path / "manifest" / "shards.parquet"
    pq.write_table(pq.read_table(path).drop_columns("finished_at"), path)
    table = manifest.ShardTable(Storage(), str(tmp_path))
    assert table.failed_before() == {"1.tar"}
    assert table.carry_over({"0.tar"}, "f") == set()
    table.publish()
    assert pq.read_schema(path) == manifest.SHARD_SCHEMA
    assert pq.read_table(path)["finished_at"].to_pylist() == [None]


def test_a_table_of_a_later_version_is_taken_over(tmp_path: Path) -> None:
    published(tmp_path, ShardReport("0.tar", "u", "done", "f", num_written=3, finished_at=1.0))
    path = tmp_path / "manifest" / "shards.parquet"
    pq.write_table(pq.read_table(path).append_column("mood", pa.array(["good"])), path)
    table = manifest.ShardTable(Storage(), str(tmp_path))
    assert table.carry_over({"0.tar"}, "f") == set()
    assert (table.totals().num_written, table.totals().num_shards) == (3, 1)


def test_a_damaged_table_is_taken_over_up_to_the_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_PAGE_ROWS", 2)
    reports = [ShardReport(f"{i}.tar", "u", "done", "f", num_written=i) for i in range(5)]
    published(tmp_path, *reports, ShardReport("5.tar", "u", "failed", "f"))
    path = tmp_path / "manifest" / "shards.parquet"
    whole = pq.read_table(path)
    data = bytearray(path.read_bytes())
    second = pq.read_metadata(path).row_group(1).column(0)
    data[second.data_page_offset + second.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(data)
    table = manifest.ShardTable(Storage(), str(tmp_path))
    for ask in (table.failed_before, lambda: list(table.digests())):
        with pytest.raises(ShardError, match=r"shards\.parquet is damaged: .*without --retry-failed"):
            ask()
    done = {report.name for report in reports}
    lacking = table.carry_over(done, "f")
    assert lacking == {"2.tar", "3.tar", "4.tar"}
    table.add(report for report in reports if report.name in lacking)
    table.publish()
    assert pq.read_table(path).equals(whole.slice(0, 5))


@pytest.mark.parametrize("table", [None, pa.table({"name": ["0.tar"]})])
def test_a_table_of_another_form_is_no_source(table: pa.Table | None, tmp_path: Path) -> None:
    path = tmp_path / "manifest" / "shards.parquet"
    path.parent.mkdir()
    if table:
        pq.write_table(table, path)
    else:
        path.write_bytes(b"PAR1 torn")
    assert manifest.ShardTable(Storage(), str(tmp_path)).carry_over({"0.tar"}, "f") == {"0.tar"}


def test_no_shard_is_a_table_too(tmp_path: Path) -> None:
    published(tmp_path)
    assert names(tmp_path) == []
