"""Read and write the samples of a shard. All other code sees samples, not the members of a tar."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from dr_pipeline.dataset.sample import Sample, has_image, split_name
from dr_pipeline.dataset.tar import (
    HARD_LINK,
    LARGEST_MEMBER_BYTES,
    SYMBOLIC_LINK,
    Member,
    TarDigest,
    TarWriter,
    read_tar,
)
from dr_pipeline.errors import SampleSkipped, ShardError

NOT_ADJACENT = "members not adjacent"
"""The reason to skip a sample whose members are scattered over the tar."""

_MOST_MEMBERS = 1000  # far more than an image-text sample has; they are held in memory
_REMEDY = {SYMBOLIC_LINK: "--dereference", HARD_LINK: "--hard-dereference"}


def read_samples(
    stream: BinaryIO,
    wanted: Callable[[str], bool] = lambda name: True,
    max_member_bytes: int = LARGEST_MEMBER_BYTES,
    passed_over: Counter[str] | None = None,
) -> Iterator[Sample]:
    """Yield the samples of a tar in order, each with the members whose names are wanted.

    A sample that the names, kinds and sizes of its members rule out has its `skip` set. Every other member is counted
    by reason in `passed_over`. Raises ShardError where the tar is damaged.
    """
    exts_by_key: dict[str, set[str]] = {}
    index = 0
    passed_over = Counter() if passed_over is None else passed_over
    for key, members in _grouped(read_tar(stream, wanted, max_member_bytes), passed_over):
        for stem, exts in _exts_of_dotted_keys(members).items():
            detail = f"a key ends at the first dot: to every reader this is a {min(exts)} of {key}; rename the files"
            dotted = {ext: members.pop(ext) for ext in exts}
            yield _sample(f"{key}.{stem}", index, dotted, SampleSkipped("dots in key", detail))
            index += 1
        if members:
            earlier_exts = exts_by_key.setdefault(key, set())
            yield _sample(key, index, members, _why_skipped(members, earlier_exts, max_member_bytes))
            earlier_exts.update(members)
            index += 1


def write_samples(path: Path, samples: Iterable[Sample]) -> TarDigest:
    """Write a tar of the samples' members, in order. Its bytes depend on keys, extensions and contents alone."""
    with path.open("wb") as file:
        writer = TarWriter(file)
        for sample in samples:
            for ext, data in sample.members.items():
                writer.add(f"{sample.key}.{ext}", data)
        return writer.close()


def _grouped(members: Iterable[Member], passed_over: Counter[str]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield neighbouring members of one key, as (key, {extension: member}).

    An extension that comes twice starts a new group of the same key.
    """
    group_key = ""
    group: dict[str, Member] = {}
    for member in members:
        key, ext = split_name(member.name)
        if member.kind not in (None, HARD_LINK, SYMBOLIC_LINK) or not key or not ext:
            passed_over[member.kind or ("name without extension" if key else "name without key")] += 1
            continue
        if key != group_key or ext in group:
            if group:
                yield group_key, group
            group_key, group = key, {}
        group[ext] = member
        if len(group) > _MOST_MEMBERS:
            raise ShardError(
                f"more than {_MOST_MEMBERS} members have the key {key}, such as {member.name}: a key ends at the first "
                "dot of a file's name; rename the files so that their keys hold no dot"
            )
    if group:
        yield group_key, group


def _sample(key: str, index: int, members: dict[str, Member], skip: SampleSkipped | None) -> Sample:
    resolved = [(member.name, member.target) for member in members.values() if member.target and not member.kind]
    return Sample(
        key=key,
        members={ext: member.data for ext, member in members.items() if member.data is not None},
        index=index,
        num_members=len(members),
        span=(min(member.start for member in members.values()), max(member.end for member in members.values())),
        hard_link=resolved[0] if resolved else None,
        skip=skip,
    )


def _exts_of_dotted_keys(members: dict[str, Member]) -> dict[str, list[str]]:
    """The extensions that belong to samples whose keys hold a dot, such as `512.jpg` and `512.txt` of `img_0.512`.

    They are grouped by the part of the key behind its first dot, the stem. Where the key before the dot has an image,
    an image with a stem may be a mask or another size of it, which passes through; it is a sample if a text has the
    same stem. Stems with characters that are unsafe in a name are left to the check of names.
    """
    endings_by_stem: dict[str, set[str]] = {}
    for ext in members:
        stem, _, ending = ext.rpartition(".")
        endings_by_stem.setdefault(stem, set()).add(ending.lower())
    text = "txt" if "txt" in members else "json"
    has_own_image = has_image(members)
    exts_by_stem: dict[str, list[str]] = {}
    for stem, endings in endings_by_stem.items():
        is_sample = has_image(endings) and (text in endings or not has_own_image)
        if stem and is_sample and not {"\\", "\0"} & set(stem):
            exts_by_stem[stem] = []
    for ext in members:
        owners = [stem for stem in exts_by_stem if ext.startswith(f"{stem}.")]
        if owners:
            exts_by_stem[max(owners, key=len)].append(ext)
    return exts_by_stem


def _why_skipped(members: dict[str, Member], earlier_exts: set[str], max_member_bytes: int) -> SampleSkipped | None:
    """Why a sample is skipped; `earlier_exts` are those that came with its key before. None where it is not skipped."""
    if not earlier_exts.isdisjoint(members):
        return SampleSkipped("duplicate key")
    if earlier_exts:
        scattered = f"{', '.join(sorted(earlier_exts))} and {', '.join(sorted(members))} do not lie side by side"
        return SampleSkipped(NOT_ADJACENT, f"{scattered}: sort the tar's members by name, as tar --sort=name does")
    for ext, member in members.items():
        if member.kind:
            return SampleSkipped(member.kind, f"{ext} names {member.target}: write the tar with {_REMEDY[member.kind]}")
        if member.size_bytes > max_member_bytes:
            return SampleSkipped("member too large", f"{ext} has {member.size_bytes} bytes, allowed {max_member_bytes}")
    return None
