"""What a run is limited by: the resource of its workers that is in use nearly all of the time."""

from typing import NamedTuple

from dr_pipeline.reinforce.tally import Tally

_LEAST_SHARE = 0.3
"""Below that nothing is short: the run begins or ends."""
_ON_CORES = ("decode", "draw", "render", "tokenize", "encode")
_ON_DEVICE = {
    "caption": "captions on the device",
    "embed_images": "embedding views on the device",
    "embed_texts": "embedding texts on the device",
    "score": "scores on the device",
}


class Limit(NamedTuple):
    """What is short, and the part of the time in which it was in use."""

    by: str
    share: float


def limit_of(counts: Tally) -> Limit | None:
    """What limited the workers in the time in which these counts were added; None where nothing did.

    A device that computes, cores that prepare samples, an endpoint that is waited for, and the streams that a shard is
    read from and written to can each be in use up to the whole of the time: the one that comes next to it is the limit.
    """
    seconds, waited = counts.group("seconds"), counts.group("waited")
    worker_seconds, shard_seconds = counts["worker_seconds"], counts["shard_seconds"]
    if not worker_seconds or not shard_seconds:
        return None
    on_cores = sum(seconds.get(stage, 0.0) for stage in _ON_CORES)
    on_device = _device_seconds(counts, seconds)
    busy_seconds = counts.get("busy_seconds", sum(on_device.values()))
    shares = {
        max(on_device, key=lambda words: on_device[words]): busy_seconds / worker_seconds,
        "decoding on the cores": on_cores / counts["core_seconds"],
        "the endpoint": waited.get("requests", 0.0) / shard_seconds,
        "reading": seconds.get("read", 0.0) / shard_seconds,
        "writing": (seconds.get("write", 0.0) + seconds.get("upload", 0.0)) / shard_seconds,
    }
    by, share = max(shares.items(), key=lambda item: item[1])
    return Limit(by, min(1.0, share)) if share >= _LEAST_SHARE else None


def _device_seconds(counts: Tally, seconds: dict[str, float]) -> dict[str, float]:
    """What the device does → for how long. A GPU's stages that embed only launch its work: views get what is left of
    the time in which it computed.
    """
    by_stage = {words: seconds.get(stage, 0.0) for stage, words in _ON_DEVICE.items()}
    by_stage[_ON_DEVICE["embed_images"]] += max(0.0, counts.get("busy_seconds", 0.0) - sum(by_stage.values()))
    return by_stage
