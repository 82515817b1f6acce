"""The parquet manifest: a row per shard, and beside it a table per shard with a row per sample.

Workers publish the sample tables, so no process ever holds them all; any parquet reader takes the folder
`manifest/samples` as one table.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dr_pipeline.dataset.paths import OutputPaths
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.errors import ShardError
from dr_pipeline.storage import Storage, StorageError

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("members", pa.int32(), nullable=False),
        pa.field("captions", pa.int32(), nullable=False),
        pa.field("synthetic_captions", pa.int32(), nullable=False),
        pa.field("similarity", pa.float32()),
        pa.field("synthetic_similarity", pa.float32()),
        pa.field("skip_reason", pa.string()),
        pa.field("skip_detail", pa.string()),
        pa.field("poor_captions", pa.string()),
        pa.field("scores", pa.map_(pa.string(), pa.float32()), nullable=False),
    ]
)
EARLIER_SAMPLE_SCHEMA = SAMPLE_SCHEMA.remove(SAMPLE_SCHEMA.get_field_index("scores"))
"""Of tables that were written before samples had scores."""
_ROW_COLUMNS = {*SAMPLE_SCHEMA.names} - {"shard"}
_ALWAYS_THERE = ["key", "skip_reason", "skip_detail"]
"""Columns of every table of samples."""
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
        pa.field("num_members", pa.int64(), nullable=False),
        pa.field("passed_over", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("seconds", pa.string(), nullable=False),
        pa.field("usage", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("finished_at", pa.float64()),
    ]
)
EARLIER_SHARD_SCHEMA = SHARD_SCHEMA.remove(SHARD_SCHEMA.get_field_index("finished_at"))
"""Of tables that were written before a shard said when it ended: that column, the last, is read as null."""

_COLUMNS = ", ".join(SHARD_SCHEMA.names)
_NAME, _STATUS, _FINGERPRINT, _SHA256 = map(SHARD_SCHEMA.get_field_index, ("name", "status", "fingerprint", "sha256"))
_PAGE_ROWS = 10_000


@dataclass(frozen=True)
class SampleRow:
    """One sample of the input, reinforced or skipped: a row of its shard's table."""

    key: str
    members: int = 0
    """Of the input's tar."""
    captions: int = 0
    synthetic_captions: int = 0
    similarity: float | None = None
    """Cosine of ground-truth caption and views: mean over the views and the teachers."""
    synthetic_similarity: float | None = None
    """The same for the synthetic captions, mean over these too."""
    skip_reason: str | None = None
    skip_detail: str | None = None
    poor_captions: str | None = None
    """JSON: key of `syn.json` → fault of `caption_faults.FAULTS` → how many of a captioner's captions have it."""
    scores: dict[str, float] = field(default_factory=dict)
    """Scorer → its score; `similarity/TEACHER/text` and `similarity/TEACHER/KEY` → mean cosine of the views with the
    ground-truth caption, and with the captions of a key of `syn.json`.
    """


def read_sample_table(storage: Storage, root: str, shard_name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A shard's table of samples, whole or of these columns.

    Raises FileNotFoundError where there is none, StorageError or ShardError where it cannot be read.
    """
    uri = OutputPaths(root).samples(shard_name)
    data = storage.read(uri)
    try:
        return parse_sample_table(data, columns)
    except ValueError as error:
        raise ShardError(f"{uri} is no table of samples: {error}; verify tells what is damaged") from error


def parse_sample_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of samples in a file, whole or of these columns. Raises ValueError where it is damaged, or is none."""
    try:
        source = pa.BufferReader(data)
        table = pq.read_table(source, columns=columns, use_threads=False, page_checksum_verification=True)
        table.select(columns or _ALWAYS_THERE)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(str(error)) from error
    return table


def read_sample_rows(storage: Storage, root: str, shard_name: str) -> list[SampleRow]:
    """The rows of a shard's table of samples. Raises as `read_sample_table`, and where its columns are others."""
    table = read_sample_table(storage, root, shard_name)
    if not has_columns(table.schema, SAMPLE_SCHEMA, EARLIER_SAMPLE_SCHEMA):
        uri = OutputPaths(root).samples(shard_name)
        raise ShardError(f"{uri} is no table of samples: its columns are {', '.join(table.column_names)}")
    rows = table.select([name for name in table.column_names if name in _ROW_COLUMNS]).to_pylist()
    return [SampleRow(**{**row, "scores": dict(row.get("scores", ()))}) for row in rows]


def read_scores(storage: Storage, root: str, shard_name: str) -> dict[str, dict[str, float]]:
    """Key → scores of a shard's samples, by its table; none where that was written before there were scores.

    Raises as `read_sample_rows`.
    """
    return {row.key: row.scores for row in read_sample_rows(storage, root, shard_name)}


def score_columns(table: pa.Table) -> dict[str, np.ndarray]:
    """Name → values [S] of a table's scores, float32, NaN where a sample has no such score. S: samples."""
    if "scores" not in table.column_names:
        return {}
    column = table["scores"].combine_chunks()
    names, values = np.array(column.keys.to_pylist(), object), column.items.to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy()
    rows = np.repeat(np.arange(len(table)), np.diff(offsets))
    names, values = names[offsets[0] : offsets[-1]], values[offsets[0] : offsets[-1]]
    scores = {}
    for name in dict.fromkeys(names):
        scores[name] = np.full(len(table), np.nan, np.float32)
        scores[name][rows[names == name]] = values[names == name]
    return scores


def write_sample_table(storage: Storage, root: str, shard_name: str, rows: list[SampleRow]) -> str:
    """Publish one shard's table of samples, with the skipped ones, and give its SHA-256."""
    table = pa.Table.from_pylist([{**asdict(row), "shard": shard_name} for row in rows], SAMPLE_SCHEMA)
    with storage.staged(OutputPaths(root).samples(shard_name)) as path:
        pq.write_table(table, path, write_page_checksum=True)
        return _sha256(path)


class Totals(NamedTuple):
    """Sums over the finished shards of an output."""

    num_read: int
    num_written: int
    num_views: int
    num_synthetic: int
    size_bytes: int
    num_shards: int
    first_shard: str | None
    """The first by name that holds a sample; None where none does."""
    num_failed: int
    """Shards that could not be done; no other field counts them."""


class ShardTable:
    """The table of an output's shards, a row for each, which a run collects and publishes.

    There may be a million rows: they are kept on disk, and memory holds a page of them. Each row repeats a report, so
    that a resumed run need not read all reports.
    """

    def __init__(self, storage: Storage, root: str):
        self._storage, self._root = storage, root
        self._rows = sqlite3.connect("", isolation_level=None)  # "": a file without a name, gone with the process
        self._rows.execute("PRAGMA journal_mode = OFF")
        self._rows.execute(f"CREATE TABLE shards ({_COLUMNS}, PRIMARY KEY (name)) WITHOUT ROWID")

    def carry_over(self, names: set[str], fingerprint: str) -> set[str]:
        """Take over the published rows of these finished shards; give the names that have no such row.

        Where a shard is to be done again, the table is published without its row at once: were this run killed, the
        next one would take the old row for that of the new shard. A damaged table is read up to its damage.
        """
        left = set(names)
        has_stale = False
        with suppress(ShardError):
            for page in published_rows(self._storage, self._root):
                ours = [row for row in page if (row[_STATUS], row[_FINGERPRINT]) == ("done", fingerprint)]
                kept = [row for row in ours if row[_NAME] in names]
                has_stale |= len(kept) < len(ours)
                self._insert(kept)
                left.difference_update(row[_NAME] for row in kept)
        if has_stale:
            self.publish()
        return left

    def add(self, reports: Iterable[ShardReport]) -> None:
        """Add a row for each report, in place of an earlier one of the same shard."""
        self._insert(shard_row(report) for report in reports)

    def failed_before(self) -> set[str]:
        """The shards that could not be done, by the published table. Raises ShardError where it is damaged."""
        pages = published_rows(self._storage, self._root)
        return {row[_NAME] for page in pages for row in page if row[_STATUS] == "failed"}

    def digests(self) -> Iterator[tuple[str, str | None]]:
        """Name and SHA-256 of each finished shard, by the published table. Raises ShardError where it is damaged."""
        for page in published_rows(self._storage, self._root):
            yield from ((row[_NAME], row[_SHA256]) for row in page if row[_STATUS] == "done")

    def publish(self) -> str:
        """Write the table, sorted by name, and give its SHA-256."""
        rows = self._rows.execute(f"SELECT {_COLUMNS} FROM shards ORDER BY name")
        with self._storage.staged(OutputPaths(self._root).shard_table) as path:
            with pq.ParquetWriter(path, SHARD_SCHEMA, write_page_checksum=True) as writer:
                while page := rows.fetchmany(_PAGE_ROWS):
                    columns = zip(*page, strict=True)
                    arrays = [pa.array(values, type) for values, type in zip(columns, SHARD_SCHEMA.types, strict=True)]
                    writer.write_table(pa.Table.from_arrays(arrays, schema=SHARD_SCHEMA))
            return _sha256(path)

    def totals(self) -> Totals:
        """The sums over all rows."""
        summed = ", ".join(f"COALESCE(SUM({name}), 0)" for name in Totals._fields[:5])
        first = "MIN(name) FILTER (WHERE num_written > 0)"
        of_done = self._rows.execute(f"SELECT {summed}, COUNT(*), {first} FROM shards WHERE status = 'done'").fetchone()
        of_failed = self._rows.execute("SELECT COUNT(*) FROM shards WHERE status = 'failed'").fetchone()
        return Totals._make((*of_done, *of_failed))

    def _insert(self, rows: Iterable[tuple[Any, ...]]) -> None:
        places = ", ".join("?" for _ in SHARD_SCHEMA)
        self._rows.executemany(f"INSERT OR REPLACE INTO shards VALUES ({places})", rows)


def published_rows(
    storage: Storage, root: str, columns: Sequence[str] = SHARD_SCHEMA.names
) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of an output's table of shards, page by page, of some columns; none where there is no table.

    Raises ShardError where it is damaged, StorageError where it cannot be read.
    """
    uri = OutputPaths(root).shard_table
    try:
        with storage.open(uri) as stream:
            yield from shard_rows(stream, columns)
    except FileNotFoundError:
        return
    except ValueError as error:
        why = str(error).partition("\n")[0]
        advice = "copy it again, or have `dr-pipeline run` of its job, without --retry-failed, write it anew"
        raise ShardError(f"{uri} is damaged: {why}: {advice}") from error


def has_columns(found: pa.Schema, columns: pa.Schema, earlier: pa.Schema) -> bool:
    """Whether a table has these columns, or those of an earlier version; a later one may have added some at the end."""
    return pa.schema([*found][: len(columns)]) in (columns, earlier)


def shard_rows(stream: BinaryIO, columns: Sequence[str] = SHARD_SCHEMA.names) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a table of shards, page by page, of some columns of `SHARD_SCHEMA`, in their order; None for what an
    earlier version did not write.

    Raises ValueError where the table is damaged, or is none.
    """
    try:
        # Buffered ahead, the stream is read by threads of pyarrow's, which abort a process that ends then.
        file = pq.ParquetFile(stream, page_checksum_verification=True, pre_buffer=False)
        if not has_columns(file.schema_arrow, SHARD_SCHEMA, EARLIER_SHARD_SCHEMA):
            raise ValueError("its columns are not those of a table of shards")
        for batch in file.iter_batches(_PAGE_ROWS, columns=columns, use_threads=False):
            values, unknown = batch.to_pydict(), [None] * batch.num_rows
            yield [*zip(*(values.get(name, unknown) for name in columns), strict=True)]
    except StorageError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error


def shard_row(report: ShardReport) -> tuple[Any, ...]:
    """A report as a row of the table of shards; its dictionaries become JSON."""
    values = (getattr(report, name) for name in SHARD_SCHEMA.names)
    return tuple(json.dumps(value) if isinstance(value, dict) else value for value in values)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
