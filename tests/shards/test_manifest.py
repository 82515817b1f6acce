"""The manifest's tables have fixed columns and types, whatever is in them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dr_pipeline.records import SampleRow, ShardReport
from dr_pipeline.shards import manifest
from dr_pipeline.shards.storage import Storage

ROWS = [
    SampleRow("größe/1", captions=1, synthetic_captions=5, similarity=0.25, synthetic_similarity=0.5),
    SampleRow("2", skip_reason="no text", skip_detail="members: jpg"),
    SampleRow("caf\\xe9", skip_reason="unsafe name", skip_detail=""),
]
SAMPLE_TYPES = {
    "key": "string",
    "shard": "string",
    "captions": "int32",
    "synthetic_captions": "int32",
    "similarity": "float",
    "synthetic_similarity": "float",
    "skip_reason": "string",
    "skip_detail": "string",
}


def types(schema: pa.Schema) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def test_samples(tmp_path: Path) -> None:
    manifest.write_samples(Storage(), str(tmp_path), "00/0013.tar", ROWS)
    path = tmp_path / "manifest" / "samples" / "00" / "0013.parquet"
    assert str(path) == manifest.samples_uri(str(tmp_path), "00/0013.tar")
    table = pq.read_table(path)
    assert types(table.schema) == SAMPLE_TYPES
    records = table.to_pylist()
    assert [record["key"] for record in records] == ["größe/1", "2", "caf\\xe9"]
    assert {record["shard"] for record in records} == {"00/0013.tar"}
    assert (records[0]["captions"], records[0]["synthetic_captions"]) == (1, 5)
    assert (records[0]["similarity"], records[0]["synthetic_similarity"]) == (0.25, 0.5)
    assert (records[1]["captions"], records[1]["similarity"]) == (0, None)
    assert (records[1]["skip_reason"], records[1]["skip_detail"]) == ("no text", "members: jpg")
    assert records[0]["skip_reason"] is None


def test_the_folder_of_sample_tables_is_one_table_even_where_columns_are_empty(tmp_path: Path) -> None:
    manifest.write_samples(Storage(), str(tmp_path), "a.tar", ROWS[:1])
    manifest.write_samples(Storage(), str(tmp_path), "b.tar", ROWS[1:])
    manifest.write_samples(Storage(), str(tmp_path), "sub/c.tar", [])
    table = ds.dataset(tmp_path / "manifest" / "samples").to_table()
    assert types(table.schema) == SAMPLE_TYPES
    assert sorted(table["shard"].to_pylist()) == ["a.tar", "b.tar", "b.tar"]


def test_shards_are_sorted_and_hold_every_field_of_the_report(tmp_path: Path) -> None:
    done = ShardReport("b.tar", "s3://b", "done", "f", 9, 7, 28, 14, {"no text": 2}, 2**40, "ab", {"read": 1.5})
    failed = ShardReport("a.tar", "s3://a", "failed", "f", error="truncated")
    manifest.write_shards(Storage(), str(tmp_path), iter([done, failed]))
    table = pq.read_table(tmp_path / "manifest" / "shards.parquet")
    assert types(table.schema) == {
        **dict.fromkeys(("name", "uri", "status", "fingerprint"), "string"),
        **dict.fromkeys(("num_read", "num_written", "num_views", "num_synthetic"), "int64"),
        **dict.fromkeys(("skipped",), "string"),
        **dict.fromkeys(("size_bytes",), "int64"),
        **dict.fromkeys(("sha256", "seconds", "error"), "string"),
    }
    first, second = table.to_pylist()
    assert (first["name"], first["status"], first["error"], first["sha256"]) == ("a.tar", "failed", "truncated", None)
    assert (second["num_read"], second["num_written"], second["size_bytes"]) == (9, 7, 2**40)
    assert json.loads(second["skipped"]) == {"no text": 2}
    assert json.loads(second["seconds"]) == {"read": 1.5}
