"""Reads and writes the samples of a shard: all other code sees samples, not the members of a tar.

Every member that is read is a sample's, or counted with the reason why it is none.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dr_pipeline.dataset.sample import Sample, has_image, split_name
from dr_pipeline.dataset.tar import HARD_LINK, LARGEST_MEMBER_BYTES, SYMBOLIC_LINK, Member, TarWriter, read_tar
from dr_pipeline.errors import SampleSkipped, ShardError

NOT_ADJACENT = "members not adjacent"
"""The reason of a sample whose members are scattered over the tar."""

_MOST_MEMBERS = 1000  # far more than an image-text sample has; they are held in memory
_REMEDY = {SYMBOLIC_LINK: "--dereference", HARD_LINK: "--hard-dereference"}


def read_samples(
    stream: BinaryIO,
    wanted: Callable[[str], bool] = lambda name: True,
    max_member_bytes: int = LARGEST_MEMBER_BYTES,
    passed_over: Counter[str] | None = None,
) -> Iterator[Sample]:
    """Yield the samples of a tar in order, each with the members whose names are wanted.

    A sample that names, kinds and sizes already rule out has its `skip` set. Members that are no sample's are counted
    by reason in `passed_over`. Raises ShardError where the tar is damaged.
    """
    exts_of: dict[str, set[str]] = {}
    index = 0
    passed_over = Counter() if passed_over is None else passed_over
    for key, members in _grouped(read_tar(stream, wanted, max_member_bytes), passed_over):
        for stem, exts in _exts_of_dotted_keys(members).items():
            detail = f"a key ends at the first dot: to every reader this is a {min(exts)} of {key}; rename the files"
            dotted = {ext: members.pop(ext) for ext in exts}
            yield _sample(f"{key}.{stem}", index, dotted, SampleSkipped("dots in key", detail))
            index += 1
        if members:
            earlier = exts_of.setdefault(key, set())
            yield _sample(key, index, members, _why_skipped(members, earlier, max_member_bytes))
            earlier.update(members)
            index += 1


class TarDigest(NamedTuple):
    """What identifies a written tar."""

    size_bytes: int
    sha256: str


def write_samples(path: Path, samples: Iterable[Sample]) -> TarDigest:
    """Write a tar of the samples' members, in order; its bytes depend on these alone."""
    with path.open("wb") as file:
        writer = TarWriter(file)
        for sample in samples:
            for ext, data in sample.members.items():
                writer.add(f"{sample.key}.{ext}", data)
        writer.close()
    return TarDigest(writer.size_bytes, writer.sha256)


def _grouped(members: Iterable[Member], passed_over: Counter[str]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Neighbouring members of one key, as (key, {extension: member}).

    An extension that comes twice starts a new group of the same key.
    """
    key = ""
    group: dict[str, Member] = {}
    for member in members:
        its_key, ext = split_name(member.name)
        if member.kind not in (None, HARD_LINK, SYMBOLIC_LINK) or not its_key or not ext:
            passed_over[member.kind or ("name without extension" if its_key else "name without key")] += 1
            continue
        if key != its_key or ext in group:
            if group:
                yield key, group
            key, group = its_key, {}
        group[ext] = member
        if len(group) > _MOST_MEMBERS:
            raise ShardError(
                f"more than {_MOST_MEMBERS} members have the key {key}, such as {member.name}: a key ends at the first "
                "dot of a file's name; rename the files so that their keys hold no dot"
            )
    if group:
        yield key, group


def _sample(key: str, index: int, members: dict[str, Member], skip: SampleSkipped | None) -> Sample:
    return Sample(
        key=key,
        members={ext: member.data for ext, member in members.items() if member.data is not None},
        index=index,
        num_members=len(members),
        span=(min(member.start for member in members.values()), max(member.end for member in members.values())),
        hard_link=next(
            ((member.name, member.target) for member in members.values() if member.target and not member.kind), None
        ),
        skip=skip,
    )


def _exts_of_dotted_keys(members: dict[str, Member]) -> dict[str, list[str]]:
    """The extensions that belong to samples whose keys hold a dot, such as `512.jpg` and `512.txt` of `img_0.512`.

    They are grouped by the part of the key behind its first dot. If a key has an image of its own, a further image may
    be a mask or another size, which passes through; with a text of its own it is a sample.
    """
    endings: dict[str, set[str]] = {}
    for ext in members:
        stem, _, ending = ext.rpartition(".")
        endings.setdefault(stem, set()).add(ending.lower())
    text = "txt" if "txt" in members else "json"
    has_own_image = has_image(members)
    stems = [
        stem
        for stem, its in endings.items()
        # What is unsafe in a name is skipped for that.
        if stem and has_image(its) and (text in its or not has_own_image) and not {"\\", "\0"} & set(stem)
    ]
    exts_by_stem: dict[str, list[str]] = {stem: [] for stem in stems}
    for ext in members:
        owners = [stem for stem in stems if ext.startswith(f"{stem}.")]
        if owners:
            exts_by_stem[max(owners, key=len)].append(ext)
    return exts_by_stem


def _why_skipped(members: dict[str, Member], earlier_exts: set[str], max_member_bytes: int) -> SampleSkipped | None:
    if not earlier_exts.isdisjoint(members):
        return SampleSkipped("duplicate key")
    if earlier_exts:
        apart = f"{', '.join(sorted(earlier_exts))} and {', '.join(sorted(members))} do not lie side by side"
        return SampleSkipped(NOT_ADJACENT, f"{apart}: sort the tar's members by name, as tar --sort=name does")
    for ext, member in members.items():
        if member.kind:
            return SampleSkipped(member.kind, f"{ext} names {member.target}: write the tar with {_REMEDY[member.kind]}")
        if member.size_bytes > max_member_bytes:
            return SampleSkipped("member too large", f"{ext} has {member.size_bytes} bytes, allowed {max_member_bytes}")
    return None
