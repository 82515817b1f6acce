"""The manifest's table of shards against their reports, row by row: it may be larger than the memory."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dr_pipeline.dataset import manifest
from dr_pipeline.dataset.paths import SHARDS, OutputPaths
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.storage import Storage
from dr_pipeline.verify.findings import Findings

UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)
"""What pyarrow raises for a damaged file, and what we do."""

_PIECE_BYTES = 8 << 20
_HOW_TO_CLOSE = "run the job again to write it"
_Row = dict[str, Any]


class ShardRows:
    """The table's rows, walked through beside the shards; `check` wants these in the order of their names."""

    def __init__(self, root: str, storage: Storage, sha256: str | None, findings: Findings):
        self._uri = OutputPaths(root).shard_table
        self._storage = storage
        self._sha256 = sha256
        self._findings = findings
        self._is_whole = True
        self._rows = self._read()
        self._next: _Row | None = next(self._rows, None)
        self._missing: list[str] = []

    def check(self, name: str, report: ShardReport | None) -> None:
        """Compare a shard's row with its report, if it has one; rows passed over belong to no published shard."""
        self._pass_over(lambda row: row["name"] < name)
        row = None
        if self._next is not None and self._next["name"] == name:
            row, self._next = self._next, next(self._rows, None)
        if report is None:
            return
        if row is None or row["status"] != report.status:
            self._missing.append(name)
        elif tuple(row.values()) != manifest.shard_row(report):
            self._findings.add(SHARDS, "", f"its row of {name} is not what the shard's report says")

    def close(self) -> None:
        """Name the rows that are left over, and those that are missing."""
        self._pass_over(lambda row: True)
        if self._missing and self._is_whole:
            lacks = f"lacks the rows of {len(self._missing)} shards, first {self._missing[0]}"
            self._findings.add(SHARDS, "", f"{lacks}: a run ended early; {_HOW_TO_CLOSE}")

    def _pass_over(self, is_passed: Callable[[_Row], bool]) -> None:
        while self._next is not None and is_passed(self._next):
            name, status, error = (self._next[column] for column in ("name", "status", "error"))
            if status == "failed":
                self._findings.add(name, "", f"the run could not reinforce it: {error}")
            else:
                self._findings.add(SHARDS, "", f"has a row of {name}, but there is no such shard")
            self._next = next(self._rows, None)

    def _read(self) -> Iterator[_Row]:
        """Page by page; what cannot be read is entered, and ends the rows."""
        try:
            if self._sha256 and self._digest() != self._sha256:
                raise ValueError(
                    f"its SHA-256 is not the one that config.json gives: changed, or a run ended early; {_HOW_TO_CLOSE}"
                )
            with self._storage.open(self._uri) as stream:
                # Buffered ahead, the stream is read by threads of pyarrow's, which abort a process that ends then.
                file = pq.ParquetFile(stream, page_checksum_verification=True, pre_buffer=False)
                if file.schema_arrow != manifest.SHARD_SCHEMA:
                    raise ValueError("its columns are not those of a table of shards")
                for batch in file.iter_batches(use_threads=False):
                    yield from batch.to_pylist()
        except FileNotFoundError:
            self._is_whole = False
            self._findings.add(SHARDS, "", f"is missing: a run ended early; {_HOW_TO_CLOSE}")
        except UNREADABLE as error:
            self._is_whole = False
            self._findings.add(SHARDS, "", str(error).partition("\n")[0])

    def _digest(self) -> str:
        digest = hashlib.sha256()
        with self._storage.open(self._uri) as stream:
            while piece := stream.read(_PIECE_BYTES):
                digest.update(piece)
        return digest.hexdigest()
