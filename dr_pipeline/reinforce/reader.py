"""Read: a tar stream → the members of each sample, in order."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from dr_pipeline.reinforce.tally import Tally
from dr_pipeline.shards.sample import group
from dr_pipeline.shards.tar import read_members


class RawSample(NamedTuple):
    """A sample as it lies in its tar: nothing is looked at yet."""

    key: str
    fields: dict[str, bytes]
    """Extension → the member's bytes."""
    is_repeated: bool
    """Whether an earlier sample of the shard has the same key."""


def read(stream: BinaryIO, tally: Tally) -> Iterator[RawSample]:
    """The shard's samples. Raises ShardError where the tar is damaged."""
    groups = group(read_members(stream))
    seen: set[str] = set()
    while True:
        with tally.stage("read"):
            key, fields = next(groups, ("", {}))
        if not fields:
            return
        yield RawSample(key, fields, key in seen)
        seen.add(key)
