"""An estimate of a job's cost: hours, cores, network, requests, and which resource is short first (docs/scaling.md)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dr_pipeline.config.job import Job
from dr_pipeline.networks.cost import Cost
from dr_pipeline.report.sample_time import sample_time
from dr_pipeline.report.traffic import Traffic, Work, traffic_of

DRIVER_SHARDS_PER_S = 1_000
"""Shards a second that the driver on Ray schedules and records, by benchmarks/many_shards.py."""
_LISTED_PER_REQUEST = 1000


@dataclass(frozen=True)
class Estimate:
    """A job's cost with `num_workers` workers. Rates are those of all workers together while all are busy."""

    num_workers: int
    device_ms: float
    """The device's time for a sample, captions included."""
    caption_ms: float
    """The device's time for a sample's captions."""
    cpu_ms: float
    """One core's time to read, render and write a sample."""
    request_ms: float
    """The time of a sample's requests, as many at once as may be."""
    cores_to_keep_up: float
    """Cores that a worker needs so that its device never waits."""
    sample_ms: float
    """A worker's time for a sample."""
    held_by: str
    """The bottleneck of a worker: its device, its cores, its network or its endpoints."""
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


def estimate(
    job: Job, work: Work, costs: Mapping[str, Cost | None], by_request: Mapping[str, int] | None = None
) -> Estimate:
    """The cost of the work with at most `workers.max` workers. `costs`: card name → its model's, None if unknown.

    `by_request`: the names of models that work elsewhere → how many requests each worker has there at once.
    How many samples scorers will filter is not known: none, as it counts.
    """
    by_request, assumed = by_request or {}, job.assumptions
    num_workers, traffic = min(job.workers.max, work.num_shards), traffic_of(job, work)
    time = sample_time(job, costs, by_request, max(traffic.read_bytes, traffic.written_bytes))
    shard_s = work.shard_samples * time.sample_ms / 1000
    first_limit, first_limit_workers = _first_limit(job, work, traffic, shard_s)
    unknown = [card.name for card in job.cards if card.name not in assumed.models]
    return Estimate(
        num_workers=num_workers,
        device_ms=time.device_ms,
        caption_ms=time.caption_ms,
        cpu_ms=time.cpu_ms,
        request_ms=time.request_ms,
        cores_to_keep_up=time.cpu_ms / time.device_ms if time.device_ms else math.inf,
        sample_ms=time.sample_ms,
        held_by=time.held_by,
        worker_hours=(work.num_samples * time.sample_ms / 1000 + num_workers * assumed.start_s) / 3600,
        hours=(math.ceil(work.num_shards / num_workers) * shard_s + assumed.start_s) / 3600,
        read_bytes_per_s=num_workers * traffic.read_bytes * 1000 / time.sample_ms,
        written_bytes_per_s=num_workers * traffic.written_bytes * 1000 / time.sample_ms,
        reads_per_s=num_workers * traffic.reads / shard_s,
        writes_per_s=num_workers * traffic.writes / shard_s,
        num_reads=work.num_shards * traffic.reads,
        num_writes=work.num_shards * traffic.writes,
        shards_per_s=num_workers / shard_s,
        num_listings=2 * math.ceil(work.num_shards / _LISTED_PER_REQUEST),
        first_limit=first_limit,
        first_limit_workers=first_limit_workers,
        not_counted=tuple(name for name in unknown if name not in by_request and not costs.get(name)),
        not_timed=tuple(name for name in unknown if name in by_request),
        assumed=assumed.model_dump(),
    )


def _first_limit(job: Job, work: Work, traffic: Traffic, shard_s: float) -> tuple[str, int]:
    """What the workers share that is exhausted first, and by how many of them."""
    limits = {
        "the store's requests": job.assumptions.store_requests_s * shard_s / max(traffic.reads, traffic.writes),
        "the driver": DRIVER_SHARDS_PER_S * shard_s,
        "the number of shards": work.num_shards,
    }
    first = min(limits, key=lambda name: limits[name])
    return first, math.floor(limits[first])
