"""An estimate of a job's cost: hours, cores, network, requests, and which resource is short first (docs/scaling.md)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dr_pipeline.codecs import codec_for
from dr_pipeline.config.job import Job
from dr_pipeline.report.sample_time import Models, SampleTime, sample_time
from dr_pipeline.report.units import in_bytes, in_time
from dr_pipeline.words import plural

DRIVER_SHARDS_PER_S = 1_000
"""Shards a second that the driver on Ray schedules and records, by benchmarks/many_shards.py."""
_READ_BYTES, _WRITE_BYTES = 8 * 2**20, 50 * 2**20  # of one request: Storage's read-ahead, s3fs' part of an upload
_REQUESTS_BESIDE_READING = 1  # for the shard's size
_REQUESTS_BESIDE_WRITING = 4  # begin and end of the upload, the table of samples, the report
_LISTED_PER_REQUEST = 1000
_BYTES_PER_VIEW_PARAMETERS = 75
_BYTES_PER_CAPTION = 60
_BYTES_PER_MEMBER = 512 + 256  # a tar header, and half a block of padding


@dataclass(frozen=True)
class Work:
    """What a run has to do."""

    num_samples: int
    num_shards: int
    input_bytes: float

    @property
    def shard_samples(self) -> float:
        """Samples of a shard, on average."""
        return self.num_samples / self.num_shards


@dataclass(frozen=True)
class Estimate(SampleTime):
    """A job's cost with `num_workers` workers. Rates are those of all workers together while all are busy."""

    num_workers: int
    cores_to_keep_up: float
    """Cores that a worker needs so that its device never waits."""
    worker_hours: float
    hours: float
    """From the start to the last shard: each worker loads its models, and does whole shards."""
    read_bytes_per_s: float
    written_bytes_per_s: float
    reads_per_s: float
    writes_per_s: float
    num_reads: int
    """Requests to the store, of the whole run."""
    num_writes: int
    shards_per_s: float
    num_listings: int
    first_limit: str
    """The resource shared by all workers that is exhausted first."""
    first_limit_workers: int
    """The number of workers that exhaust it."""
    not_counted: tuple[str, ...]
    """The models whose cost is not known."""
    not_timed: tuple[str, ...]
    """The models that are asked by request, whose time is not known."""
    assumed: dict[str, Any]
    """The job's `assumptions`."""

    def lines(self) -> Iterator[str]:
        """The estimate in words, a line for each thing that it tells, which begins with that thing's name."""
        of_one, of_all = in_time(3600 * self.worker_hours), f"{in_time(3600 * self.hours)} with {self.num_workers:,}"
        yield f"time     about {of_one} of one worker, {of_all}; each waits for {self.held_by}"
        yield (
            f"sample   {self.device_ms:.3g} ms of the device ({self.caption_ms:.3g} for captions), "
            f"{self.cpu_ms:.3g} ms of a core: {self.cores_to_keep_up:.2g} cores keep up with the device"
        )
        yield (
            f"network  {in_bytes(self.read_bytes_per_s)}/s in, {in_bytes(self.written_bytes_per_s)}/s out; "
            f"{self.reads_per_s:,.3g} reads/s, {self.writes_per_s:,.3g} writes/s, {self.num_listings:,} listings"
        )
        yield f"limit    {self.first_limit}, from {plural(self.first_limit_workers, 'worker')} on"
        assumed = [
            f"{name} of {', '.join(value)}" if isinstance(value, dict) else f"{name}={value:g}"
            for name, value in self.assumed.items()
            if value != {}
        ]
        yield f"assumed  {', '.join(assumed)}"
        yield from (f"unknown  the cost of {name}: not counted" for name in self.not_counted)
        yield from (f"unknown  how long {name} takes to answer: not counted" for name in self.not_timed)


def estimate(job: Job, work: Work, models: Models) -> Estimate:
    """The cost of the work with at most `workers.max` workers.

    How many samples scorers will filter is not known: none, as it counts.
    """
    assumed, num_workers, shard_samples = job.assumptions, min(job.workers.max, work.num_shards), work.shard_samples
    read_bytes, written_bytes = work.input_bytes / work.num_samples, stored_bytes(job, work) / work.num_samples
    reads = math.ceil(shard_samples * read_bytes / _READ_BYTES) + _REQUESTS_BESIDE_READING
    writes = math.ceil(shard_samples * written_bytes / _WRITE_BYTES) + _REQUESTS_BESIDE_WRITING
    time = sample_time(job, models, max(read_bytes, written_bytes))
    shard_s = shard_samples * time.sample_ms / 1000
    limits = {
        "the store's requests": assumed.store_requests_s * shard_s / max(reads, writes),
        "the driver": DRIVER_SHARDS_PER_S * shard_s,
        "the number of shards": work.num_shards,
    }
    first_limit = min(limits, key=lambda name: limits[name])
    unknown = [card.name for card in job.cards if card.name not in assumed.models]
    return Estimate(
        **vars(time),
        num_workers=num_workers,
        cores_to_keep_up=time.cpu_ms / time.device_ms if time.device_ms else math.inf,
        worker_hours=(work.num_samples * time.sample_ms / 1000 + num_workers * assumed.start_s) / 3600,
        hours=(math.ceil(work.num_shards / num_workers) * shard_s + assumed.start_s) / 3600,
        read_bytes_per_s=num_workers * read_bytes * 1000 / time.sample_ms,
        written_bytes_per_s=num_workers * written_bytes * 1000 / time.sample_ms,
        reads_per_s=num_workers * reads / shard_s,
        writes_per_s=num_workers * writes / shard_s,
        num_reads=work.num_shards * reads,
        num_writes=work.num_shards * writes,
        shards_per_s=num_workers / shard_s,
        num_listings=2 * math.ceil(work.num_shards / _LISTED_PER_REQUEST),
        first_limit=first_limit,
        first_limit_workers=math.floor(limits[first_limit]),
        not_counted=tuple(name for name in unknown if name not in models.by_request and not models.costs.get(name)),
        not_timed=tuple(name for name in unknown if name in models.by_request),
        assumed=assumed.model_dump(),
    )


def stored_bytes(job: Job, work: Work) -> float:
    """Bytes of the shards that are written."""
    return work.input_bytes * (job.output.images == "copy") + work.num_samples * added_bytes(job)


def added_bytes(job: Job) -> float:
    """Bytes that the pipeline adds to one sample. Teachers without a declared dim count as 0."""
    embeddings = job.num_values * codec_for(job.output.precision).stored_bytes
    views, captions = job.augmentation.num_views, sum(writer.num_captions for writer in job.writers)
    texts = views * _BYTES_PER_VIEW_PARAMETERS + captions * _BYTES_PER_CAPTION
    return embeddings + texts + 3 * _BYTES_PER_MEMBER
