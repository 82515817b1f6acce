"""How long a worker takes for a sample: by its device, its cores, its network and the endpoints that it asks.

A worker prepares samples on its cores while its device computes others, so a sample takes as long as the slowest of
these. Without a GPU the models run on the same cores, and the times add up.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from dr_pipeline.config.cards import CaptionerCard, Card, ScorerCard
from dr_pipeline.config.job import Job
from dr_pipeline.networks.cost import Cost

_ASSUMED_VALUES = 36 * 1536  # embedding values of the sample that `assumptions.write_ms` is for
_ASSUMED_VIEW_SIZE = 224  # pixels of the views that `view_ms` and `gpu_view_ms` are for


@dataclass(frozen=True)
class Models:
    """What is known of a job's models without loading them."""

    costs: Mapping[str, Cost | None] = field(default_factory=dict)
    """Card name → its model's cost; None where it is not known."""
    by_request: Mapping[str, int] = field(default_factory=dict)
    """Names of those that are asked by request, elsewhere → how many requests each worker has there at once."""


@dataclass(frozen=True)
class SampleTime:
    """A worker's time for a sample, and what it consists of."""

    caption_ms: float
    """The device's time for a sample's captions."""
    device_ms: float
    """The device's time for a sample, captions included."""
    cpu_ms: float
    """One core's time to read, render and write a sample."""
    request_ms: float
    """Of the endpoint that takes longest, when as many requests are there as may be."""
    held_by: str
    """The bottleneck of a worker: its device, its cores, its network or its endpoints."""
    sample_ms: float
    """The slowest one's, times `assumptions.overhead`."""


def sample_time(job: Job, models: Models, moved_bytes: float) -> SampleTime:
    """The time of a sample of which `moved_bytes` are read or written, whichever is more; see `estimate`."""
    assumed, costs, by_request = job.assumptions, models.costs, models.by_request
    writers = [card for card in job.writers if card.name not in by_request]
    caption_ms = sum(model_ms(job, card, costs.get(card.name)) for card in writers)
    device_ms = caption_ms + sum(model_ms(job, card, costs.get(card.name)) for card in (*job.scorers, *job.teachers))
    cpu_ms = decodings(job) * assumed.decode_ms + standard_values(job) * assumed.write_ms
    if renders_on_device(job):
        device_ms += standard_views(job) * assumed.gpu_view_ms
    else:
        cpu_ms += standard_views(job) * assumed.view_ms
    held_ms: defaultdict[str, float] = defaultdict(float)
    for card in job.writers:
        if card.name in by_request and (times := assumed.models.get(card.name)):
            held_ms[card.name] += card.num_captions * times.text_ms / by_request[card.name]
    request_ms = max(held_ms.values(), default=0.0)
    times_ms = {
        "its device": device_ms,
        "its cores": cpu_ms / job.workers.num_cpus,
        "its network": moved_bytes * 8e-6 / assumed.network_gbit_s,
        "its endpoints": request_ms,
    }
    if job.workers.num_gpus == 0:
        times_ms["its cores"] += times_ms.pop("its device")
    held_by = max(times_ms, key=lambda name: times_ms[name])
    return SampleTime(caption_ms, device_ms, cpu_ms, request_ms, held_by, times_ms[held_by] * assumed.overhead)


def renders_on_device(job: Job) -> bool:
    """Whether a GPU renders the views."""
    workers = job.workers
    return bool(workers.num_gpus) and workers.render != "host" and not job.augmentation.mixed_share


def standard_views(job: Job) -> float:
    """The views of a sample, as so many of 224 px: a view's time is in proportion to its pixels."""
    recipe = job.augmentation
    return recipe.num_views * (1 + recipe.mixed_share) * (recipe.size / _ASSUMED_VIEW_SIZE) ** 2


def standard_values(job: Job) -> float:
    """The embedding values of a sample, as so many samples of 36 × 1,536."""
    return job.num_values / _ASSUMED_VALUES


def decodings(job: Job) -> int:
    """How often an image is decoded: for the scorers, and for the views."""
    return 2 if job.scorers else 1


def model_ms(job: Job, card: Card, cost: Cost | None) -> float:
    """The device's time for a sample's scores, captions or embeddings by a card's model; 0 where it is unknown.

    By `assumptions.models`; else by its operations, of which a step of a captioner on a GPU takes at least
    `caption_step_ms` for all images of its batch.
    """
    assumed, num_gpus = job.assumptions, job.workers.num_gpus
    num_images, num_texts = job.augmentation.num_views, job.num_texts
    if isinstance(card, CaptionerCard):
        num_images, num_texts = 1, card.num_captions
    elif isinstance(card, ScorerCard):
        num_images, num_texts = 1, 1
    if times := assumed.models.get(card.name):
        whole_ms = times.sample_ms + num_images * times.image_ms + num_texts * times.text_ms
        return whole_ms / min(1, num_gpus or 1)
    if cost is None:
        return 0
    tflops = assumed.gpu_tflops * num_gpus if num_gpus else assumed.core_tflops * job.workers.num_cpus
    flops_per_ms = tflops * 1e9
    if isinstance(card, CaptionerCard):
        least_step_ms = assumed.caption_step_ms / job.workers.batches("cuda").captions if num_gpus else 0.0
        step_ms = max(least_step_ms, num_texts * cost.token_flops / flops_per_ms)
        return cost.image_flops / flops_per_ms + min(assumed.caption_steps, card.sampling.max_tokens) * step_ms
    return (num_images * cost.image_flops + num_texts * cost.text_flops) / flops_per_ms
