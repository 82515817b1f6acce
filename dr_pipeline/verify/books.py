"""What an output says of itself, against its shards: config.json, the reports, the manifest's tables.

A report has the digests of its shard and of the shard's table, config.json that of `shards.parquet`, and both have a
checksum of themselves: so every published byte is covered.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dr_pipeline.dataset import checksum, manifest
from dr_pipeline.dataset.config_json import contradictions, num_samples_of
from dr_pipeline.dataset.paths import CONFIG, SAMPLES, OutputPaths, shard_of
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.storage import Storage
from dr_pipeline.verify.findings import Findings
from dr_pipeline.verify.rows import UNREADABLE, ShardRows

_REPORT = re.compile(r"([0-9a-f]{12})/(.+)\.json")


class Books:
    """The books of one output; whatever is wrong with them is entered in the findings."""

    def __init__(self, root: str, storage: Storage, findings: Findings):
        self._paths, self._storage, self._findings = OutputPaths(root), storage, findings
        reports = self._list_reports()
        self.config: dict[str, Any] = self._read_config(any(reports.values()))
        self._fingerprint = self._find_fingerprint(reports)
        self.committed: set[str] = reports.get(self._fingerprint, set())
        """The shards that have a report."""
        self._shards: set[str] = set()
        self._num_written = 0
        self._empty: list[str] = []
        sha256 = self.config.get("dr_pipeline", {}).get("manifest_sha256")
        self._rows = ShardRows(root, storage, sha256, findings) if self._fingerprint else None

    def report(self, name: str) -> ShardReport | None:
        """A shard's report; None where it is missing or damaged, or the dataset is another program's."""
        if not self._fingerprint:
            return None
        if name not in self.committed:
            self._findings.add(name, "", "no report: the shard was never committed; run the job again")
            return None
        uri = self._paths.report(self._fingerprint, name)
        file, data = self._paths.relative(uri), self._storage.read(uri)
        try:
            report = ShardReport.from_json(data)
        except (ValueError, TypeError) as error:
            self._findings.add(file, "", f"is no report: {error}")
            return None
        if not checksum.is_intact(data) or (report.name, report.fingerprint) != (name, self._fingerprint):
            self._findings.add(file, "", "was changed: its content is not what its checksum, or its name, says")
            return None
        self._num_written += report.num_written
        if not report.num_read:
            self._empty.append(name)
        return report

    def check_samples(self, report: ShardReport, keys: list[str]) -> Counter[str] | None:
        """Compare a shard's table of samples with its report, and with the keys of its tar.

        How many members of the input each key has; None where the table is damaged.
        """
        uri = self._paths.samples(report.name)
        file = self._paths.relative(uri)
        try:
            data = self._storage.read(uri)
        except FileNotFoundError:
            self._findings.add(file, "", "is missing")
            return None
        if hashlib.sha256(data).hexdigest() != report.samples_sha256:
            self._findings.add(file, "", "its SHA-256 is not the one that the shard's report gives: it was changed")
            return None
        try:
            table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            if table.schema_arrow != manifest.SAMPLE_SCHEMA:
                raise ValueError("its columns are not those of a table of samples")
            rows = table.read(["key", "shard", "members", "skip_reason"], use_threads=False).to_pylist()
            written = [row["key"] for row in rows if row["skip_reason"] is None]
        except UNREADABLE as error:
            self._findings.add(file, "", str(error).partition("\n")[0])
            return None
        if len(rows) != report.num_read or written != keys or any(row["shard"] != report.name for row in rows):
            self._findings.add(file, "", "does not list the samples that its tar holds and its report counts")
            return None
        for problem in _sums(report, rows):
            self._findings.add(file, "", problem)
        members_by_key = Counter[str]()
        for row in rows:
            members_by_key[row["key"]] += row["members"]
        return members_by_key

    def check_row(self, name: str, report: ShardReport | None) -> None:
        """Compare the manifest's row of a shard with its report; to be called in the order of the names."""
        if self._rows:
            self._rows.check(name, report)
            self._shards.add(name)

    def close(self) -> None:
        """Check what only the whole shows."""
        if self._empty:
            self._findings.remarks.append(
                f"{len(self._empty)} shards are of tars without members, and hold no sample; first {self._empty[0]}"
            )
        if not self._rows:
            return
        self._rows.close()
        for file in sorted(self._storage.files(self._paths.sample_tables)):
            if file.endswith(".parquet") and shard_of(file) not in self._shards:
                self._findings.add(f"{SAMPLES}/{file}", "", "lists the samples of a shard that is not there")
        stored = num_samples_of(self.config)
        if self.config and not self._findings.problems and stored != self._num_written:
            self._findings.add(CONFIG, "", f"num_samples is {stored}, but the shards hold {self._num_written}")

    def _list_reports(self) -> dict[str, set[str]]:
        """Fingerprint → names of shards; a file that is still being written has another ending."""
        found: dict[str, set[str]] = {}
        for file in self._storage.files(self._paths.reports):
            if match := _REPORT.fullmatch(file):
                found.setdefault(match[1], set()).add(f"{match[2]}.tar")
        return found

    def _read_config(self, has_reports: bool) -> dict[str, Any]:
        """{} when it is missing, damaged, or (without a word) another program's."""
        try:
            data = self._storage.read(self._paths.config)
        except FileNotFoundError:
            if has_reports:
                self._findings.add(CONFIG, "", "is missing")
            return {}
        try:
            config = checksum.load(data)
        except ValueError as error:
            self._findings.add(CONFIG, "", f"is not JSON: {error}")
            return {}
        if "dr_pipeline" not in config and not has_reports:
            return config
        wrong = [] if checksum.is_intact(data) else ["was changed: its content is not what its checksum says"]
        wrong = wrong or list(contradictions(config))
        for problem in wrong:
            self._findings.add(CONFIG, "", problem)
        return {} if wrong else config

    def _find_fingerprint(self, reports: dict[str, set[str]]) -> str:
        """That of config.json; where this is damaged, the one under which there are reports."""
        if self.config:
            return self.config.get("dr_pipeline", {}).get("fingerprint", "")
        return next(iter(reports)) if len(reports) == 1 else ""


def _sums(report: ShardReport, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Where a report does not add up by itself, or with the table of its samples."""
    skipped = Counter(row["skip_reason"] for row in rows if row["skip_reason"])
    if skipped != Counter(report.skipped) or report.num_written + skipped.total() != report.num_read:
        yield "skips other samples than the shard's report counts"
    num_members, num_passed_over = sum(row["members"] for row in rows), sum(report.passed_over.values())
    if num_members + num_passed_over != report.num_members:
        yield (
            f"its samples have {num_members} members, and {num_passed_over} were passed over, but the shard's report "
            f"counts {report.num_members}"
        )
