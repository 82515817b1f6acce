"""The task of a shard, and the report of how it ended. A finished shard's report in the output commits the shard.

It is JSON, and holds the SHA-256 of the shard's tar and of its table of samples, which tells a damaged file.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from typing import Literal, Self

from dr_pipeline.config.job import Job
from dr_pipeline.dataset import checksum
from dr_pipeline.dataset.paths import OutputPaths, shard_of
from dr_pipeline.dataset.sample import FILTERED
from dr_pipeline.storage import Storage

ENOUGH_SAMPLES = 100
"""The fewest samples of which a skipped share is judged as it is."""
_READERS = 32
_PAGE_REPORTS = 1024


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One unit of work, of retry, of commit and of resume. A run may hold a million of them."""

    name: str
    """Path below the input's root and below the output, such as `00/00000013.tar`."""
    uri: str
    size_bytes: int | None
    """None where a listing did not show the file."""


class CountsSkipped:
    """Has counted skipped samples, and tells those that scorers have left out from those that cannot be reinforced."""

    skipped: Mapping[str, int]
    """Reason → samples."""

    @property
    def num_filtered(self) -> int:
        """Samples that a scorer has left out."""
        return self.skipped.get(FILTERED, 0)

    @property
    def num_skipped(self) -> int:
        """Samples that cannot be reinforced."""
        return sum(self.skipped.values()) - self.num_filtered


@dataclass(frozen=True)
class ShardReport(CountsSkipped):
    """How one shard ended."""

    name: str
    uri: str
    status: Literal["done", "failed"]
    fingerprint: str
    num_read: int = 0
    num_written: int = 0
    num_views: int = 0
    num_synthetic: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason → samples."""
    size_bytes: int = 0
    sha256: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage → seconds at work, those of all threads together; `total` is the time that passed, and `device` how much of
    it the device computed, for this shard or for others.
    """
    waited_seconds: dict[str, float] = field(default_factory=dict)
    """Stage → seconds that it waited: `read` for room in the queue behind it; the models for their `turn` after another
    shard, `views` for rendered samples, `captions` for samples whose views are launched, `requests` for an endpoint's
    captions, `texts` for captions and their tokens, `collect` for the device or the encoders; `write` for encoded
    samples.
    """
    error: str | None = None
    samples_sha256: str | None = None
    """Of the shard's table of samples in the manifest."""
    arithmetic: str | None = None
    """What computed the embeddings and captions, such as `cpu float32` or `cuda bfloat16`."""
    num_members: int = 0
    """Of the input's tar: those of its samples, read, and those that are passed over."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Reason → members that are no sample's."""
    stops_run: bool = False
    """Whether no other shard could fare better: the output takes nothing more."""
    captions: dict[str, dict[str, int]] = field(default_factory=dict)
    """Key of `syn.json` → `drawn`, its captioner's captions, and how many of these have each fault of `FAULTS`."""
    usage: dict[str, dict[str, float]] = field(default_factory=dict)
    """Key of `syn.json` → what its captioner's requests took: `requests`, the `retries` among them, `failures`,
    `prompt_tokens`, `completion_tokens`; `cost` where the card has prices.
    """
    finished_at: float | None = None
    """When the shard ended: seconds since 1970, UTC, by its worker's clock; None in reports of earlier versions."""

    def to_json(self) -> bytes:
        """The report as a file."""
        return checksum.dump(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The report in a file, without what a later version may have added to it.

        Raises ValueError or TypeError when it holds none; its checksum is not compared.
        """
        tree, known = checksum.load(data), {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in tree.items() if name in known})


class Reports:
    """The reports of the shards that one configuration has made in an output.

    Their folder carries the configuration's fingerprint: one listing tells what is done, and a shard that another
    configuration made never counts.
    """

    def __init__(self, storage: Storage, root: str, fingerprint: str):
        self._storage, self._paths, self._fingerprint = storage, OutputPaths(root), fingerprint

    @classmethod
    def of(cls, job: Job) -> Self:
        """The reports of a job's shards in its output."""
        return cls(Storage(job.output.storage), job.output.path, job.fingerprint())

    def shards(self) -> set[str]:
        """The names of the shards that are committed: one listing."""
        return {shard_of(file) for file in self._storage.files(self._paths.reports_of(self._fingerprint))}

    def commit(self, report: ShardReport) -> None:
        """Write a shard's report, after its tar: from here on the shard is done."""
        self._storage.write(self._uri(report.name), report.to_json())

    def withdraw(self, name: str) -> None:
        """Delete a shard's report: the shard is to be done again."""
        self._storage.delete(self._uri(name))

    def find(self, name: str) -> ShardReport | None:
        """A shard's report; None when it is not committed."""
        try:
            return ShardReport.from_json(self._storage.read(self._uri(name)))
        except FileNotFoundError:
            return None

    def read(self, names: Iterable[str]) -> Iterator[ShardReport]:
        """The reports of these shards in their order. Each is a request; `_READERS` of them are made at a time."""
        left = iter(names)
        with ThreadPoolExecutor(_READERS) as pool:
            while page := list(islice(left, _PAGE_REPORTS)):
                for data in pool.map(lambda name: self._storage.read(self._uri(name)), page):
                    yield ShardReport.from_json(data)

    def _uri(self, name: str) -> str:
        return self._paths.report(self._fingerprint, name)


def describe_usage(key: str, used: Mapping[str, float]) -> str:
    """One line about what the requests of a captioner took."""
    names = {"requests": "request", "retries": "retry", "failures": "failure"}
    parts = [f"{used[name]:,.0f} {one if used[name] == 1 else name}" for name, one in names.items() if used[name]]
    tokens = f"{used['prompt_tokens']:,.0f} + {used['completion_tokens']:,.0f} tokens"
    cost = [f"cost {used['cost']:,.2f}"] if "cost" in used else []
    return f"{key}: {', '.join([*parts, tokens, *cost])}"


def are_too_many(num_skipped: int, num_samples: int, max_skipped: float) -> bool:
    """Whether more than the share `max_skipped` of a shard's samples is skipped, for a writer as for a trainer.

    One bad sample in a shard of four does not show that a quarter of the data is bad. So a shard of fewer than
    `ENOUGH_SAMPLES` may skip as many as one of that size, but no more than half of its own.
    """
    if num_samples >= ENOUGH_SAMPLES:
        return num_skipped > max_skipped * num_samples
    return num_skipped > min(max_skipped * ENOUGH_SAMPLES, max(max_skipped, 0.5) * num_samples)
