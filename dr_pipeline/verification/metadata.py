"""What a dataset says of itself: its config.json and its reports.

Both end with a checksum of themselves. A report also has the SHA-256 of its shard and of the shard's table of samples,
config.json that of `shards.parquet`: so every published byte is covered.
"""

import re
from collections.abc import Iterable
from typing import Any

from dr_pipeline.dataset import checksum
from dr_pipeline.dataset.config_json import contradictions, job_of, num_samples_of
from dr_pipeline.dataset.paths import CONFIG, REPORTS, OutputPaths
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage
from dr_pipeline.verification.findings import Findings
from dr_pipeline.views.recipe import UNDESCRIBED, read_recipe
from dr_pipeline.words import plural

_REPORT = re.compile(rf"{REPORTS}/([0-9a-f]{{12}})/(.+)\.json")


class Metadata:
    """The config.json and the reports of a dataset. What is wrong with them goes into the findings."""

    def __init__(self, paths: OutputPaths, storage: Storage, files: Iterable[str], findings: Findings):
        self._paths, self._storage, self._findings = paths, storage, findings
        shards_by_fingerprint: dict[str, set[str]] = {}
        for file in files:
            if match := _REPORT.fullmatch(file):
                shards_by_fingerprint.setdefault(match[1], set()).add(f"{match[2]}.tar")
        self.config = self._read_config(has_reports=bool(shards_by_fingerprint))
        """{} where config.json is missing or damaged."""
        self.job = job_of(self.config) if "dr_pipeline" in self.config else None
        """The job that made the dataset, as config.json describes it; None where it describes none."""
        try:
            self.recipe = read_recipe(self.config)
        except ConfigError as error:
            findings.add(CONFIG, str(error))
            self.recipe = UNDESCRIBED
        self.fingerprint: str = self.config.get("dr_pipeline", {}).get("fingerprint", "")
        """Of the job; "" where another program made the dataset."""
        if not self.config and len(shards_by_fingerprint) == 1:  # a damaged config.json, but one job's reports
            (self.fingerprint,) = shards_by_fingerprint
        self.committed = shards_by_fingerprint.get(self.fingerprint, set())
        """The shards that have a report."""
        self._num_written, self._empty = 0, list[str]()

    def read_report(self, name: str) -> ShardReport | None:
        """A shard's report; None where it is missing or damaged, or the dataset is another program's."""
        if not self.fingerprint:
            return None
        if name not in self.committed:
            self._findings.add(name, "no report: the shard was never committed; run the job again")
            return None
        uri = self._paths.report(self.fingerprint, name)
        file, data = self._paths.relative(uri), self._storage.read(uri)
        try:
            report = ShardReport.from_json(data)
        except (ValueError, TypeError) as error:
            self._findings.add(file, f"is no report: {error}")
            return None
        if not checksum.is_intact(data) or (report.name, report.fingerprint) != (name, self.fingerprint):
            self._findings.add(file, "was changed: its content is not what its checksum, or its name, says")
            return None
        self._num_written += report.num_written
        self._empty += [] if report.num_read else [name]
        return report

    def close(self) -> None:
        """Compare the number of samples in config.json with the reports that were read, and remark empty shards."""
        stored = num_samples_of(self.config)
        if self.fingerprint and self.config and not self._findings.problems and stored != self._num_written:
            self._findings.add(CONFIG, f"num_samples is {stored}, but the shards hold {self._num_written}")
        if self._empty:
            shards = plural(len(self._empty), "shard")
            self._findings.remarks.append(f"no sample, for the input is empty, in {shards}, first {self._empty[0]}")

    def _read_config(self, has_reports: bool) -> dict[str, Any]:
        """{} where it is missing or damaged; that another program left none is no fault."""
        try:
            data = self._storage.read(self._paths.config)
        except FileNotFoundError:
            if has_reports:
                self._findings.add(CONFIG, "is missing")
            return {}
        try:
            config = checksum.load(data)
        except ValueError as error:
            self._findings.add(CONFIG, f"is not JSON: {error}")
            return {}
        if "dr_pipeline" not in config and not has_reports:
            return config
        if checksum.is_intact(data):
            problems = list(contradictions(config))
        else:
            problems = ["was changed: its content is not what its checksum says"]
        for problem in problems:
            self._findings.add(CONFIG, problem)
        return {} if problems else config
