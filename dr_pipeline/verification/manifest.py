"""The manifest of a dataset against its reports: the table of shards, and each shard's table of samples."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from dr_pipeline.dataset import manifest
from dr_pipeline.dataset.paths import SHARDS, OutputPaths
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.storage import Storage
from dr_pipeline.verification.findings import Findings
from dr_pipeline.words import plural

_AT_THE_END = "a run writes it at its end: run the job again where none runs now"


class ShardTableComparison:
    """The rows of `shards.parquet` against the reports. Both are read in the order of the shards' names, row by row:
    the table may be larger than the memory.
    """

    def __init__(self, paths: OutputPaths, storage: Storage, sha256: str | None, findings: Findings):
        self._uri, self._storage, self._sha256, self._findings = paths.shard_table, storage, sha256, findings
        self._is_readable = True
        self._rows = self._read()
        self._next = next(self._rows, None)
        self._missing: list[str] = []

    def check(self, name: str, report: ShardReport | None) -> None:
        """Compare a shard's row with its report, if it has one; to be called in the order of the names."""
        self._pass_over_rows(before=name)
        row = None
        if self._next is not None and self._next["name"] == name:
            row, self._next = self._next, next(self._rows, None)
        if report is None:
            return
        if row is None or row["status"] != report.status:
            self._missing.append(name)
        elif tuple(row.values()) != manifest.shard_row(report):
            self._findings.add(SHARDS, f"its row of {name} is not what the shard's report says")

    def close(self) -> None:
        """Report the rows that are left over, and those that are missing."""
        self._pass_over_rows()
        if self._missing and self._is_readable:
            lacks = f"lacks the rows of {plural(len(self._missing), 'shard')}, first {self._missing[0]}"
            self._findings.add(SHARDS, f"{lacks}: {_AT_THE_END}")

    def _pass_over_rows(self, before: str | None = None) -> None:
        """Report the rows that come before this name, or all rows: they belong to no published shard."""
        while self._next is not None and (before is None or self._next["name"] < before):
            name = self._next["name"]
            if self._next["status"] == "failed":
                self._findings.add(name, f"the run could not reinforce it: {self._next['error']}")
            else:
                self._findings.add(SHARDS, f"has a row of {name}, but there is no such shard")
            self._next = next(self._rows, None)

    def _read(self) -> Iterator[dict[str, Any]]:
        """The rows as dictionaries. The first fault is reported, and ends them."""
        try:
            with self._storage.open(self._uri) as stream:
                if self._sha256 and hashlib.file_digest(stream, "sha256").hexdigest() != self._sha256:  # type: ignore[arg-type]
                    raise ValueError(f"its SHA-256 is not the one that config.json gives: changed, or {_AT_THE_END}")
                stream.seek(0)
                for page in manifest.shard_rows(stream):
                    yield from (dict(zip(manifest.SHARD_SCHEMA.names, row, strict=True)) for row in page)
        except FileNotFoundError:
            self._is_readable = False
            self._findings.add(SHARDS, f"is missing: {_AT_THE_END}")
        except (OSError, ValueError) as error:
            self._is_readable = False
            self._findings.add(SHARDS, str(error).partition("\n")[0])


def check_sample_table(
    report: ShardReport, keys: list[str], paths: OutputPaths, storage: Storage, findings: Findings
) -> Counter[str] | None:
    """Compare a shard's table of samples with the shard's report, and with the keys of its tar.

    Gives how many members of the input each key has; None where the table is missing or damaged.
    """
    uri = paths.samples(report.name)
    file = paths.relative(uri)
    try:
        data = storage.read(uri)
    except FileNotFoundError:
        findings.add(file, "is missing")
        return None
    try:
        if hashlib.sha256(data).hexdigest() != report.samples_sha256:
            raise ValueError("its SHA-256 is not the one that the shard's report gives: it was changed")
        table = manifest.parse_sample_table(data)
        if not manifest.has_columns(table.schema, manifest.SAMPLE_SCHEMA, manifest.EARLIER_SAMPLE_SCHEMA):
            raise ValueError("its columns are not those of a table of samples")
    except ValueError as error:
        findings.add(file, str(error).partition("\n")[0])
        return None
    rows = table.select(["key", "shard", "members", "skip_reason"]).to_pylist()
    written = [row["key"] for row in rows if row["skip_reason"] is None]
    if len(rows) != report.num_read or written != keys or any(row["shard"] != report.name for row in rows):
        findings.add(file, "does not list the samples that its tar holds and its report counts")
        return None
    skipped = Counter(row["skip_reason"] for row in rows if row["skip_reason"])
    if skipped != Counter(report.skipped) or report.num_written + skipped.total() != report.num_read:
        findings.add(file, "skips other samples than the shard's report counts")
    members_by_key = Counter[str]()
    for row in rows:
        members_by_key[row["key"]] += row["members"]
    num_members, num_passed_over = members_by_key.total(), sum(report.passed_over.values())
    if num_members + num_passed_over != report.num_members:
        findings.add(
            file,
            f"its samples have {plural(num_members, 'member')}, and {num_passed_over} were passed over, but the "
            f"shard's report counts {report.num_members}",
        )
    return members_by_key
