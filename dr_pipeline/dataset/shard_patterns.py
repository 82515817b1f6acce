"""The patterns of a job's `shards`, and the shards that they name: tars, brace patterns, globs, folders, or lists."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, product, takewhile

from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import LEADS_NOWHERE, Listing, Storage, StorageError
from dr_pipeline.storage.naming import HIDDEN, before_wildcards, fits, is_hidden, is_shard, why_no_shard
from dr_pipeline.words import plural

_BRACE = re.compile(r"\{([^{}]*)\}")
_WILDCARD = re.compile(r"[*?\[]")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_COMMENT = re.compile(r"(^|\s)#.*")
_ENTRIES_NAMED_IN_ERRORS = 5


@dataclass(frozen=True)
class LeftOut:
    """Files in the place of shards that are not taken for shards, for one reason."""

    why: str
    count: int
    first: str

    def __str__(self) -> str:
        return f"{self.count}: {self.why}; the first is {self.first}"


@dataclass(frozen=True)
class Entry:
    """One pattern of a job's `shards`, and what it names."""

    label: str
    """The pattern as errors quote it: with its line in a list, or with the braces that it is an alternative of."""
    folder: str
    """The folder of all that it may name, as an absolute path or URI."""
    sizes: Mapping[str, int | None] = field(default_factory=dict)
    """URI → bytes of its shards; None for one that is named but not there."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """URI → why it is not taken for a shard."""
    globs: tuple[str, ...] = ()
    """The glob that it is, and the same glob with the real path of its folder; none for other patterns."""
    places: tuple[str, ...] = ()
    """Of a folder that is taken whole: its real path, and those of the linked folders in it."""
    linked: Mapping[str, str] = field(default_factory=dict)
    """Link to a folder that was followed → real path of that folder."""

    def would_find(self, files: Iterable[str]) -> bool:
        """Whether it would name one of these files, given by real paths, once they are written."""
        files = list(files)
        by_links = [
            link + file.removeprefix(place)
            for link, place in self.linked.items()
            for file in files
            if is_within(file, place)
        ]
        is_matched = any(fits(file, glob) for file in [*files, *by_links] for glob in self.globs)
        return is_matched or any(is_within(file, place) for file in files for place in self.places)


@dataclass(frozen=True)
class Shards:
    """The shards that a job's `shards` names."""

    field: str
    """The field's path in the job, for errors."""
    root: str
    """The longest folder that all entries share."""
    sizes: Mapping[str, int | None]
    """URI → bytes, sorted by URI; None for a shard that is not there."""
    left_out: tuple[LeftOut, ...]
    entries: tuple[Entry, ...]

    def all_present(self) -> dict[str, int]:
        """URI → bytes, for a reader that needs every shard. Raises ConfigError naming the first that is not there."""
        present = {uri: size for uri, size in self.sizes.items() if size is not None}
        missing = [uri for uri in self.sizes if uri not in present]
        for entry in self.entries:
            missing += [uri for uri, why in entry.left_out.items() if why == LEADS_NOWHERE and is_shard(uri)]
        if missing:
            num_named = len(present) + len(missing)
            raise ConfigError(
                f"{self.field}: not there: {len(missing):,} of {plural(num_named, 'shard')}; the first is {missing[0]}"
            )
        return present


def find_shards(shards: str | tuple[str, ...], storage: Storage, field: str) -> Shards:
    """The shards that a job's `field` names. Raises ConfigError with every entry of which no shard is there."""
    entries = list(_find(list(_patterns(shards, storage, field)), storage))
    if not entries:
        raise ConfigError(f"{field}: no shard found: an empty list")
    empty = [entry for entry in entries if all(size is None for size in entry.sizes.values())]
    if empty:
        reasons = [f"{entry.label}: {_why_empty(entry)}" for entry in empty[:_ENTRIES_NAMED_IN_ERRORS]]
        if len(entries) == 1:
            raise ConfigError(f"{field}: no shard found at {reasons[0]}")
        if len(empty) > len(reasons):
            reasons.append(f"and {len(empty) - len(reasons)} more")
        lines = [f"{field}: no shard found at {len(empty)} of {len(entries)} entries:", *reasons]
        raise ConfigError("\n  ".join(lines))
    sizes = dict(sorted(chain.from_iterable(entry.sizes.items() for entry in entries)))
    left_out = {uri: why for entry in entries for uri, why in entry.left_out.items() if uri not in sizes}
    folders = [folder.split("/") for folder in {entry.folder for entry in entries}]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    root = "/".join(parts[0] for parts in shared)
    return Shards(field, root, sizes, _by_reason(left_out), tuple(entries))


def _patterns(shards: str | tuple[str, ...], storage: Storage, field: str) -> Iterator[tuple[str, str]]:
    """The label and the absolute form of each pattern. A `.txt` file lists patterns, one a line, and `#` comments."""
    for given in [shards] if isinstance(shards, str) else shards:
        uri = storage.absolute(given)
        if not without_query(given).endswith(".txt"):
            yield uri, uri
            continue
        try:
            text = storage.read(uri).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{field}: {given} cannot be read as a list of shards: {error}") from error
        lines = {number: _COMMENT.sub("", line).strip() for number, line in enumerate(text.splitlines(), 1)}
        if not any(lines.values()):
            raise ConfigError(f"{field}: no shard found: {given} is an empty list")
        for number, line in lines.items():
            if line:
                pattern = storage.absolute(line)
                yield f"{pattern} (line {number} of {given})", pattern


def expand_braces(pattern: str) -> list[str]:
    """`a{00..02}.tar` and `{x,y}.tar` → every name, in order; zero padding is kept."""
    choices: list[list[str]] = []
    for index, piece in enumerate(_BRACE.split(pattern)):
        span = _RANGE.fullmatch(piece)
        if index % 2 == 0:  # outside of braces
            choices.append([piece])
        elif span:
            first, last = span.groups()
            width = len(first) if first.startswith("0") else 0
            choices.append([str(number).zfill(width) for number in range(int(first), int(last) + 1)])
        else:
            choices.append(piece.split(","))
    return ["".join(choice) for choice in product(*choices)]


def _find(patterns: list[tuple[str, str]], storage: Storage) -> Iterator[Entry]:
    """An entry for each pattern, and for each folder or glob among a brace pattern's alternatives.

    A pattern that exists as it is written is a name, whatever letters it has. Files that are named one by one, by all
    patterns together, cost one listing for each of their folders.
    """
    names, roots, globs = dict[str, list[str]](), dict[str, str](), set[str]()
    for _, pattern in patterns:
        path = without_query(pattern)
        is_glob = _WILDCARD.search(path) is not None
        if not (is_glob or "{" in path) or _exists(pattern, storage):
            names[pattern], roots[pattern] = [pattern], ""
            continue
        names[pattern], roots[pattern] = expand_braces(pattern), before_wildcards(pattern)
        if is_glob:
            globs.add(pattern)
    listed = (name for pattern in names if pattern not in globs for name in names[pattern])
    sizes = storage.sizes(name for name in listed if is_shard(without_query(name)) or without_query(name) != name)
    for label, pattern in patterns:
        root = roots[pattern]
        named = {} if pattern in globs else {name: sizes[name] for name in names[pattern] if name in sizes}
        if named or not names[pattern]:
            yield Entry(label, root or _parent(pattern), named)
        for name in names[pattern]:
            if name not in named:
                part = label if label.startswith(name) else f"{name} of {label}"
                yield (_matching if pattern in globs else _below)(name, part, root, storage)


def _matching(glob: str, label: str, root: str, storage: Storage) -> Entry:
    """The entry of a glob."""
    folder = before_wildcards(glob)
    globs = (glob, storage.canonical(folder) + glob.removeprefix(folder))
    return _entry(label, root or folder, storage.glob(glob), globs=globs)


def _below(uri: str, label: str, root: str, storage: Storage) -> Entry:
    """The entry of a folder, with all below it; where there is no such folder, that of the file of this name."""
    listing = storage.listing(uri)
    if not listing.sizes and not listing.others:
        return Entry(label, root or _parent(uri), storage.sizes([uri]))
    hidden = {name: HIDDEN for name in listing.sizes if is_hidden(name)}
    sizes = {f"{uri}/{name}": size for name, size in listing.sizes.items() if name not in hidden}
    others = {f"{uri}/{name}": why for name, why in {**listing.others, **hidden}.items()}
    places = (storage.canonical(uri), *listing.linked.values())
    return _entry(label, root or uri, Listing(sizes, others, listing.linked), places=places)


def _entry(
    label: str, folder: str, listing: Listing, globs: tuple[str, ...] = (), places: tuple[str, ...] = ()
) -> Entry:
    """An entry with the shards of a listing, and with the reasons why its other files are left out."""
    shards = {uri: size for uri, size in listing.sizes.items() if is_shard(uri)}
    left_out = {uri: why_no_shard(uri) for uri in listing.sizes if uri not in shards} | listing.others
    return Entry(label, folder, shards, left_out, globs, places, listing.linked)


def _exists(uri: str, storage: Storage) -> bool:
    """Whether a file or folder is there. A server may refuse a request for a name with a pattern's letters."""
    try:
        return storage.exists(uri)
    except StorageError:
        return False


def _parent(uri: str) -> str:
    return without_query(uri).rpartition("/")[0]


def _why_empty(entry: Entry) -> str:
    """Why an entry names no shard that is there."""
    if entry.left_out:
        return f"what is there is left out, {', '.join(map(str, _by_reason(entry.left_out)))}"
    if len(entry.sizes) > 1:
        return (
            f"none of the {len(entry.sizes):,} files that it names is there, the first being {next(iter(entry.sizes))}"
        )
    return "nothing is there"


def _by_reason(left_out: Mapping[str, str]) -> tuple[LeftOut, ...]:
    """URI → why, counted by reason, the commonest first."""
    uris: dict[str, list[str]] = {}
    for uri, why in left_out.items():
        uris.setdefault(why, []).append(uri)
    counted = (LeftOut(why, len(files), min(files)) for why, files in uris.items())
    return tuple(sorted(counted, key=lambda left_out: (-left_out.count, left_out.why)))


def is_within(path: str, folder: str) -> bool:
    """Whether a path is the folder's own, or lies below it."""
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def without_query(uri: str) -> str:
    """A URL without its query, which is no part of its file's name; elsewhere `?` is a letter of the name."""
    return uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri
