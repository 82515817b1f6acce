"""An estimate of a job's cost: hours, cores, network, requests, and which resource is short first (docs/scaling.md).

A worker prepares samples on its cores while its device computes others, so a sample takes as long as the slowest of
device, cores and network. Without a GPU the models run on the same cores, and the times add up.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dr_pipeline.codecs import codec_for
from dr_pipeline.config.job import Job
from dr_pipeline.networks.cost import Cost

DRIVER_SHARDS_PER_S = 1_000
"""Shards a second that the driver on Ray schedules and records, by benchmarks/many_shards.py."""
_READ_BYTES, _WRITE_BYTES = 8 * 2**20, 50 * 2**20  # of one request: Storage's read-ahead, s3fs' part of an upload
_REQUESTS_BESIDE_READING = 1  # for the shard's size
_REQUESTS_BESIDE_WRITING = 4  # begin and end of the upload, the table of samples, the report
_LISTED_PER_REQUEST = 1000
_BYTES_PER_VIEW_PARAMETERS = 75
_BYTES_PER_CAPTION = 60
_BYTES_PER_MEMBER = 512 + 256  # a tar header, and half a block of padding
_ASSUMED_VALUES = 36 * 1536  # embedding values of the sample that `assumptions.write_ms` is for
_ASSUMED_VIEW_SIZE = 224  # pixels of the views that `view_ms` and `gpu_view_ms` are for


@dataclass(frozen=True)
class Work:
    """What a run has to do."""

    num_samples: int
    num_shards: int
    input_bytes: float


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
    cores_to_keep_up: float
    """Cores that a worker needs so that its device never waits."""
    sample_ms: float
    """A worker's time for a sample."""
    held_by: str
    """The bottleneck of a worker: its device, its cores or its network."""
    worker_hours: float
    hours: float
    """From the first shard to the last: each worker does whole shards."""
    read_bytes_per_s: float
    written_bytes_per_s: float
    reads_per_s: float
    writes_per_s: float
    shards_per_s: float
    num_listings: int
    first_limit: str
    """The resource shared by all workers that is exhausted first."""
    first_limit_workers: int
    """The number of workers that exhaust it."""
    not_counted: tuple[str, ...]
    """The models whose cost is not known."""
    assumed: dict[str, float]
    """The job's `assumptions`."""


def estimate(job: Job, work: Work, costs: Mapping[str, Cost | None], by_request: Collection[str] = ()) -> Estimate:
    """The cost of the work with at most `workers.max` workers. `costs`: card name → its model's, None if unknown.

    The models of the names in `by_request` work elsewhere: how long they take is not known, and not counted.
    How many samples scorers will filter is not known: none, as it counts.
    """
    models = (*job.scorers, *job.writers, *job.teachers)
    num_workers, assumed, num_views = min(job.workers.max, work.num_shards), job.assumptions, job.augmentation.num_views
    caption_ms, embed_ms = _device_ms(job, costs)
    device_ms, cpu_ms = caption_ms + embed_ms, assumed.decode_ms + assumed.write_ms * job.num_values / _ASSUMED_VALUES
    if job.scorers:  # images are decoded once for the scorers, and once for the views
        cpu_ms += assumed.decode_ms
    views_of_224_px = num_views * (1 + job.augmentation.mixed_share) * (job.augmentation.size / _ASSUMED_VIEW_SIZE) ** 2
    if job.workers.num_gpus and job.workers.render != "host" and not job.augmentation.mixed_share:
        device_ms += views_of_224_px * assumed.gpu_view_ms
    else:
        cpu_ms += views_of_224_px * assumed.view_ms
    read_bytes = work.input_bytes / work.num_samples
    written_bytes = read_bytes * (job.output.images == "copy") + added_bytes(job)
    held_by, sample_ms = _slowest(job, device_ms, cpu_ms, max(read_bytes, written_bytes))
    shard_samples = work.num_samples / work.num_shards
    shard_s = shard_samples * sample_ms / 1000
    reads = math.ceil(shard_samples * read_bytes / _READ_BYTES) + _REQUESTS_BESIDE_READING
    writes = math.ceil(shard_samples * written_bytes / _WRITE_BYTES) + _REQUESTS_BESIDE_WRITING
    limits = {
        "the store's requests": assumed.store_requests_s * shard_s / max(reads, writes),
        "the driver": DRIVER_SHARDS_PER_S * shard_s,
        "the number of shards": work.num_shards,
    }
    first_limit = min(limits, key=lambda name: limits[name])
    return Estimate(
        num_workers=num_workers,
        device_ms=device_ms,
        caption_ms=caption_ms,
        cpu_ms=cpu_ms,
        cores_to_keep_up=cpu_ms / device_ms if device_ms else math.inf,
        sample_ms=sample_ms,
        held_by=held_by,
        worker_hours=work.num_samples * sample_ms / 3.6e6,
        hours=math.ceil(work.num_shards / num_workers) * shard_s / 3600,
        read_bytes_per_s=num_workers * read_bytes * 1000 / sample_ms,
        written_bytes_per_s=num_workers * written_bytes * 1000 / sample_ms,
        reads_per_s=num_workers * reads / shard_s,
        writes_per_s=num_workers * writes / shard_s,
        shards_per_s=num_workers / shard_s,
        num_listings=2 * math.ceil(work.num_shards / _LISTED_PER_REQUEST),
        first_limit=first_limit,
        first_limit_workers=math.floor(limits[first_limit]),
        not_counted=tuple(card.name for card in models if not (costs.get(card.name) or card.name in by_request)),
        assumed=assumed.model_dump(),
    )


def _slowest(job: Job, device_ms: float, cpu_ms: float, moved_bytes: float) -> tuple[str, float]:
    """The bottleneck of a worker, and how many ms a sample takes there. `moved_bytes`: the more of read and written."""
    times_ms = {
        "its device": device_ms,
        "its cores": cpu_ms / job.workers.num_cpus,
        "its network": moved_bytes * 8e-6 / job.assumptions.network_gbit_s,
    }
    if job.workers.num_gpus == 0:
        times_ms["its cores"] += times_ms.pop("its device")
    slowest = max(times_ms, key=lambda name: times_ms[name])
    return slowest, times_ms[slowest]


def added_bytes(job: Job) -> float:
    """Bytes that the pipeline adds to one sample. Teachers without a declared dim count as 0."""
    embeddings = job.num_values * codec_for(job.output.precision).stored_bytes
    views, captions = job.augmentation.num_views, _num_captions(job)
    texts = views * _BYTES_PER_VIEW_PARAMETERS + captions * _BYTES_PER_CAPTION
    return embeddings + texts + 3 * _BYTES_PER_MEMBER


def _num_captions(job: Job) -> int:
    return sum(writer.num_captions for writer in job.writers)


def _device_ms(job: Job, costs: Mapping[str, Cost | None]) -> tuple[float, float]:
    """The device's ms for a sample's captions, and for its scores and embeddings. Models of unknown cost count as 0.

    On a GPU a captioner's step takes at least `caption_step_ms` for all images of its batch.
    """
    assumed, workers, num_views = job.assumptions, job.workers, job.augmentation.num_views
    caption_batch = workers.batches("cuda").captions
    tflops = assumed.gpu_tflops * workers.num_gpus if workers.num_gpus else assumed.core_tflops * workers.num_cpus
    flops_per_ms = tflops * 1e9
    least_step_ms = assumed.caption_step_ms / caption_batch if workers.num_gpus else 0.0
    caption_ms = embed_ms = 0.0
    for scorer in job.scorers:
        if cost := costs.get(scorer.name):
            embed_ms += (cost.image_flops + cost.text_flops) / flops_per_ms
    for writer in job.writers:
        if cost := costs.get(writer.name):
            step_ms = max(least_step_ms, writer.num_captions * cost.token_flops / flops_per_ms)
            steps = min(assumed.caption_steps, writer.sampling.max_tokens)
            caption_ms += cost.image_flops / flops_per_ms + steps * step_ms
    for teacher in job.teachers:
        if cost := costs.get(teacher.name):
            embed_ms += (num_views * cost.image_flops + job.num_texts * cost.text_flops) / flops_per_ms
    return caption_ms, embed_ms
