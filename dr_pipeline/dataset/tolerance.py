"""How many of a shard's samples may be left out, for who writes shards and for who trains on them."""

ENOUGH_SAMPLES = 100
"""From so many on a share says something about the shard."""


def are_too_many(num_skipped: int, num_samples: int, max_skipped: float) -> bool:
    """Whether more than the share `max_skipped` of a shard's samples is skipped.

    One bad sample of four is no quarter of bad data: a shard of fewer than `ENOUGH_SAMPLES` may skip as many as one of
    that size may, up to half of its own.
    """
    if num_samples >= ENOUGH_SAMPLES:
        return num_skipped > max_skipped * num_samples
    return num_skipped > min(max_skipped * ENOUGH_SAMPLES, max(max_skipped, 0.5) * num_samples)
