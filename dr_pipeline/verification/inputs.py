"""The tars that a dataset was made of, counted again: every member of them must be accounted for."""

from collections import Counter
from pathlib import Path
from typing import BinaryIO

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.plan import find_tasks
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import PipelineError
from dr_pipeline.storage import Storage
from dr_pipeline.verification.findings import Findings
from dr_pipeline.words import plural


class InputComparison:
    """The input of each shard against the shard's report. Of the input's tars only headers are read.

    Anybody may have written the reports: what they name is read only where it is a file of this machine. What a job
    names is read wherever it lies.
    """

    def __init__(self, job: Job | None, findings: Findings):
        self._findings = findings
        self._storage = Storage(job.input.storage if job else {})
        self._uris: dict[str, str] | None = None
        """Shard → its input, by the job; None where there is no job."""
        self._unreached: dict[str, str] = {}
        self._is_down = False
        if job:
            self._uris = {}
            try:
                _, tasks = find_tasks(job.input, self._storage)
                self._uris = {task.name: task.uri for task in tasks}
            except PipelineError as error:
                findings.remarks.append(f"the job's input cannot be listed: {error}")

    def check(self, report: ShardReport, members_by_key: Counter[str]) -> None:
        """Count the members of a shard's input, and compare with its report and its table of samples."""
        passed_over, found = Counter[str](), Counter[str]()
        try:
            with self._open(report) as stream:
                for sample in read_samples(stream, lambda name: False, passed_over=passed_over):
                    found[sample.key] += sample.num_members
        except (PipelineError, OSError) as error:
            self._is_down |= isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
            self._unreached[report.name] = f"{type(error).__name__}: {error}"
            return
        num_members = found.total() + passed_over.total()
        if (num_members, passed_over) != (report.num_members, Counter(report.passed_over)):
            self._findings.add(
                report.name,
                f"its input now has {plural(num_members, 'member')}, {passed_over.total()} of them no sample's; "
                f"its report counts {report.num_members} and {sum(report.passed_over.values())}: the input was changed",
            )
        elif found != members_by_key:
            key = min((found - members_by_key) | (members_by_key - found))
            self._findings.add(
                report.name,
                f"its input now has {plural(found[key], 'member')} of this key, its table of samples "
                f"{members_by_key[key]}: the input was changed",
                key,
            )

    def close(self, committed: set[str]) -> None:
        """Remark what could not be counted, and which shards of a job's input are not committed."""
        remarks = self._findings.remarks
        if self._unreached:
            first, error = next(iter(self._unreached.items()))
            remarks.append(
                f"the input of {plural(len(self._unreached), 'shard')} could not be counted again, first "
                f"{first}: {error}; --job names the job that knows where it lies and how it is reached"
            )
        left = (self._uris or {}).keys() - committed
        if left:
            remarks.append(f"not done of the job's input: {plural(len(left), 'shard')}, first {min(left)}")

    def _open(self, report: ShardReport) -> BinaryIO:
        """Raises FileNotFoundError where the input is not known, or is not asked for."""
        if self._uris is None:
            if not Path(report.uri).is_file():
                raise FileNotFoundError(f"no file of this machine: {report.uri}")
            return Path(report.uri).open("rb")
        if report.name not in self._uris:
            raise FileNotFoundError("the job does not name it")
        if self._is_down:
            raise FileNotFoundError("the storage did not answer before")
        return self._storage.open(self._uris[report.name])
