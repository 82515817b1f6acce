"""Read: a tar stream → the members of each sample, in order."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from dr_pipeline.reinforce.tally import Tally
from dr_pipeline.shards.sample import group
from dr_pipeline.shards.tar import scan


class RawSample(NamedTuple):
    """A sample as it lies in its tar: nothing is looked at yet."""

    key: str
    fields: dict[str, bytes]
    """Extension → the member's bytes."""
    is_repeated: bool
    """Whether an earlier sample of the shard has the same key."""
    too_large: dict[str, int]
    """Extension → bytes of the members that were not read."""


def read(stream: BinaryIO, tally: Tally, max_member_bytes: int) -> Iterator[RawSample]:
    """The shard's samples; members of more than `max_member_bytes` are passed over. Raises ShardError where the tar is
    damaged.
    """
    groups = group((member.name, member) for member in scan(stream, lambda name: True, max_member_bytes))
    seen: set[str] = set()
    while True:
        with tally.stage("read"):
            key, members = next(groups, ("", {}))
        if not members:
            return
        fields = {ext: member.data for ext, member in members.items() if member.data is not None}
        too_large = {ext: member.size_bytes for ext, member in members.items() if member.data is None}
        yield RawSample(key, fields, key in seen, too_large)
        seen.add(key)
