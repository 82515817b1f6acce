"""From the members of a base dataset's tar to its samples: each member is a sample's, or counted with the reason."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dr_pipeline.dataset.sample import group, has_image, split_name
from dr_pipeline.dataset.tar import HARD_LINK, SYMBOLIC_LINK, Located
from dr_pipeline.errors import SampleSkipped

NOT_ADJACENT = "members not adjacent"
"""The reason of a sample whose members are scattered over the tar."""


class RawSample(NamedTuple):
    """A sample as it lies in its tar: no content is looked at yet."""

    key: str
    members: dict[str, Located]
    """By extension."""
    skip: SampleSkipped | None
    """Why it cannot be used, where names, kinds and sizes already tell."""

    @property
    def fields(self) -> dict[str, bytes]:
        """Extension → the member's bytes, where they were read."""
        return {ext: member.data for ext, member in self.members.items() if member.data is not None}


class Account:
    """The members of one tar."""

    def __init__(self) -> None:
        self.num_members = 0
        self.passed_over: Counter[str] = Counter()
        """Reason → members that are no sample's."""

    def of_samples(self, members: Iterable[Located]) -> Iterator[tuple[str, Located]]:
        """Those that are a sample's, by name; a link with a sample's name is one of them."""
        for member in members:
            self.num_members += 1
            key, ext = split_name(member.name)
            if member.kind in (None, HARD_LINK, SYMBOLIC_LINK) and key and ext:
                yield member.name, member
            else:
                self.passed_over[member.kind or ("name without extension" if key else "name without key")] += 1


def raw_samples(members: Iterable[Located], account: Account, max_member_bytes: int) -> Iterator[RawSample]:
    """The samples of a tar, in order. Raises ShardError where the tar is damaged."""
    exts_of: dict[str, frozenset[str]] = {}
    for key, found in group(account.of_samples(members)):
        own = dict(found)
        for stem, exts in _dotted(found).items():
            detail = f"a key ends at the first dot: to every reader this is a {min(exts)} of {key}; rename the files"
            yield RawSample(f"{key}.{stem}", {ext: own.pop(ext) for ext in exts}, SampleSkipped("dots in key", detail))
        if own:
            yield RawSample(key, own, _skip(own, exts_of.get(key, frozenset()), max_member_bytes))
            exts_of[key] = exts_of.get(key, frozenset()).union(own)


def _dotted(fields: dict[str, Located]) -> dict[str, list[str]]:
    """The extensions that belong to samples whose keys hold a dot, such as `512.jpg` and `512.txt` of `img_0.512`.

    By the part of the key behind its first dot. Where a key has an image of its own, a further one may be a mask or
    another size, which passes through; with a text of its own it is a sample.
    """
    endings: dict[str, set[str]] = {}
    for ext in fields:
        stem, _, ending = ext.rpartition(".")
        endings.setdefault(stem, set()).add(ending.lower())
    text = "txt" if "txt" in fields else "json"
    has_own_image = has_image(fields)
    stems = [
        stem
        for stem, its in endings.items()
        if stem and has_image(its) and (text in its or not has_own_image) and not _UNSAFE & set(stem)
    ]
    exts_by_stem: dict[str, list[str]] = {stem: [] for stem in stems}
    for ext in fields:
        owners = [stem for stem in stems if ext.startswith(f"{stem}.")]
        if owners:
            exts_by_stem[max(owners, key=len)].append(ext)
    return exts_by_stem


def _skip(members: dict[str, Located], earlier_exts: frozenset[str], max_member_bytes: int) -> SampleSkipped | None:
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


_UNSAFE = set("\\\0")  # to be named for that
_REMEDY = {SYMBOLIC_LINK: "--dereference", HARD_LINK: "--hard-dereference"}
