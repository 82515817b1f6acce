"""The parquet manifest: a row per shard, and beside it a table per shard with a row per sample.

Workers publish the sample tables, so no process ever holds them all; any parquet reader takes the folder
`manifest/samples` as one table.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from dr_pipeline.records import SampleRow, ShardReport
from dr_pipeline.shards.storage import Storage

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("captions", pa.int32(), nullable=False),
        pa.field("synthetic_captions", pa.int32(), nullable=False),
        pa.field("similarity", pa.float32()),
        pa.field("synthetic_similarity", pa.float32()),
        pa.field("skip_reason", pa.string()),
        pa.field("skip_detail", pa.string()),
    ]
)
SHARD_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("num_read", pa.int64(), nullable=False),
        pa.field("num_written", pa.int64(), nullable=False),
        pa.field("num_views", pa.int64(), nullable=False),
        pa.field("num_synthetic", pa.int64(), nullable=False),
        pa.field("skipped", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("seconds", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)


def samples_uri(root: str, shard_name: str) -> str:
    """Where a shard's sample table lies."""
    return f"{root}/manifest/samples/{shard_name.removesuffix('.tar')}.parquet"


def write_samples(storage: Storage, root: str, shard_name: str, rows: list[SampleRow]) -> None:
    """Publish one shard's table of samples, the skipped ones too."""
    records = [{**asdict(row), "shard": shard_name} for row in rows]
    _write(storage, samples_uri(root, shard_name), pa.Table.from_pylist(records, SAMPLE_SCHEMA))


def write_shards(storage: Storage, root: str, reports: Iterable[ShardReport]) -> None:
    """Publish the table of shards, sorted by name."""
    records = [
        {**asdict(report), "skipped": json.dumps(report.skipped), "seconds": json.dumps(report.seconds)}
        for report in sorted(reports, key=lambda report: report.name)
    ]
    _write(storage, f"{root}/manifest/shards.parquet", pa.Table.from_pylist(records, SHARD_SCHEMA))


def _write(storage: Storage, uri: str, table: pa.Table) -> None:
    with storage.staged(uri) as path:
        pq.write_table(table, path)
