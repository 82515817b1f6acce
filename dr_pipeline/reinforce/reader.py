"""Read: a tar stream → the members of each sample, in order."""

from collections.abc import Iterator
from typing import BinaryIO

from dr_pipeline.dataset.raw import RawSample, raw_samples
from dr_pipeline.dataset.tar import scan
from dr_pipeline.reinforce.tally import Tally


def read(stream: BinaryIO, tally: Tally, max_member_bytes: int) -> Iterator[RawSample]:
    """The shard's samples; members of more than `max_member_bytes` are passed over. Raises ShardError where the tar is
    damaged.
    """
    samples = raw_samples(scan(stream, lambda name: True, max_member_bytes), tally.account, max_member_bytes)
    while True:
        with tally.stage("read"):
            raw = next(samples, None)
        if raw is None:
            return
        yield raw
