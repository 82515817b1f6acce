"""From a job to shard tasks: what the input pattern names, and which of it is not done yet."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, product
from pathlib import Path
from typing import NamedTuple, TypeVar

from dr_pipeline.config.job import Input, Job
from dr_pipeline.dataset.ledger import Ledger
from dr_pipeline.dataset.report import ShardTask
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import LEADS_NOWHERE, Storage, refuse_fleeting
from dr_pipeline.storage.naming import HIDDEN, before_wildcards, fits, is_hidden, is_shard, output_name, why_no_shard

Value = TypeVar("Value")

_BRACE = re.compile(r"\{([^{}]*)\}")
_WILDCARD = re.compile(r"[*?\[]")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_COMMENT = re.compile(r"(^|\s)#.*")
_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class LeftOut:
    """Files that lie where shards are looked for and are not taken for shards, for one reason."""

    why: str
    count: int
    first: str

    def __str__(self) -> str:
        return f"{self.count}: {self.why}; the first is {self.first}"


@dataclass(frozen=True)
class Plan:
    """A job with its paths made absolute, and its shards."""

    job: Job
    todo: tuple[ShardTask, ...]
    done: tuple[ShardTask, ...]
    left_out: tuple[LeftOut, ...] = ()

    def only(self, names: set[str]) -> "Plan":
        """The plan with those of its shards left to do that have these names."""
        return replace(self, todo=tuple(task for task in self.todo if task.name in names))

    @property
    def missing(self) -> tuple[ShardTask, ...]:
        """Shards that the pattern names but a listing of their folder does not show."""
        return tuple(task for task in self.todo if task.size_bytes is None)


@dataclass
class Entry:
    """One of the patterns that a job names its shards by, and what it leads to."""

    where: str
    """As the job has it, or a line of its list."""
    folder: str
    """What holds for everything that it names, as an absolute path or URI."""
    sizes: dict[str, int | None] = field(default_factory=dict)
    """URI → bytes of its shards; None where one is named and not there."""
    left_out: dict[str, str] = field(default_factory=dict)
    """URI → why it is not taken."""
    glob: str | None = None
    """What it takes by a wildcard."""
    place: str | None = None
    """Where the folder lies of which it takes all."""
    linked: Mapping[str, str] = field(default_factory=dict)
    """The links to folders that lie in it, and where they lead."""

    @property
    def is_found(self) -> bool:
        """Whether at least one of its shards is there."""
        return any(size is not None for size in self.sizes.values())

    def take(self, sizes: Mapping[str, int], others: Mapping[str, str]) -> None:
        """Sort out what a listing shows: files, URI → bytes, and what is none, URI → why."""
        self.sizes = {uri: size for uri, size in sizes.items() if is_shard(uri)}
        self.left_out = {uri: why_no_shard(uri) for uri in sizes if uri not in self.sizes} | dict(others)


class Found(NamedTuple):
    """What a job's patterns name."""

    root: str
    """The folder that all lie in."""
    sizes: dict[str, int | None]
    """URI → bytes, sorted; None where a shard is not there."""
    left_out: tuple[LeftOut, ...]
    entries: tuple[Entry, ...]


class FoundTasks(NamedTuple):
    """The shards of a reinforcing job's input."""

    root: str
    """What their names are relative to."""
    tasks: list[ShardTask]
    """Sorted by URI."""
    left_out: tuple[LeftOut, ...]
    entries: tuple[Entry, ...]


def make_plan(job: Job) -> Plan:
    """List the input once per folder and the output's reports once. Raises ConfigError; writes nothing."""
    sources, results = Storage(job.input.storage), Storage(job.output.storage)
    output = results.absolute(job.output.path)
    refuse_fleeting(output, "output.path")
    if output.startswith(("http://", "https://")):
        raise ConfigError(f"output.path {output}: a web server takes no files: choose a folder or a bucket")
    if output.encode(errors="replace").decode() != output:
        raise ConfigError(f"output.path {output!r} is no text in UTF-8: choose another name")
    found = find_shards(job.input, sources)
    _refuse_output_among_input(found, sources, output, results)
    _refuse_run_folders(output)
    job = job.model_copy(
        update={
            "input": job.input.model_copy(update={"root": found.root}),
            "output": job.output.model_copy(update={"path": output}),
        }
    )
    job = Ledger(job).known_job()
    done_names = Ledger(job).done()
    todo = tuple(task for task in found.tasks if task.name not in done_names)
    done = tuple(task for task in found.tasks if task.name in done_names)
    return Plan(job, todo, done, found.left_out)


def _refuse_run_folders(output: str) -> None:
    """Raise ConfigError where the output would lie in a training run's folder, which may be removed as a whole."""
    for folder in () if "://" in output else (Path(output), *Path(output).parents):
        if (folder / "job.json").is_file() and (folder / "checkpoints").is_dir():
            raise ConfigError(f"output.path {output} lies in the training run {folder}: choose a folder outside of it")


def find_shards(source: Input, storage: Storage) -> FoundTasks:
    """The shards of an input, each with its name in the output. Raises ConfigError where an entry names none that is
    there, or two shards would have one name.
    """
    found = list_shards(source.shards, storage, "input.shards")
    root = storage.absolute(source.root) if source.root else found.root
    tasks: dict[str, ShardTask] = {}
    for uri, size in found.sizes.items():
        name = output_name(_relative(_without_query(uri), root))
        if name in tasks:
            raise ConfigError(
                f"input.shards: {tasks[name].uri} and {uri} would both be {name} in the output: leave one out, or "
                "rename it"
            )
        tasks[name] = ShardTask(name, uri, size)
    return FoundTasks(root, list(tasks.values()), found.left_out, found.entries)


def list_shards(shards: str | tuple[str, ...], storage: Storage, field: str) -> Found:
    """What a job's `field` names. Raises ConfigError naming every entry of which not one shard is there."""
    entries = list(_look_up(list(_asked(shards, storage, field)), storage))
    lost = [entry for entry in entries if not entry.is_found]
    if lost or not entries:
        raise ConfigError(_nothing_found(field, lost, len(entries)))
    sizes = dict(sorted(chain.from_iterable(entry.sizes.items() for entry in entries)))
    left_out = {uri: why for entry in entries for uri, why in entry.left_out.items() if uri not in sizes}
    return Found(_common_root(entry.folder for entry in entries), sizes, _counted(left_out), tuple(entries))


def list_present_shards(shards: str | tuple[str, ...], storage: Storage, field: str) -> tuple[str, dict[str, int]]:
    """As `list_shards`, root and sizes alone, for who needs every shard. Raises ConfigError naming the first that is
    not there.
    """
    found = list_shards(shards, storage, field)
    present = {uri: size for uri, size in found.sizes.items() if size is not None}
    missing = [uri for uri in found.sizes if uri not in present]
    for entry in found.entries:
        missing += [uri for uri, why in entry.left_out.items() if why == LEADS_NOWHERE and is_shard(uri)]
    if missing:
        num_named = len(present) + len(missing)
        raise ConfigError(f"{field}: {len(missing)} of {num_named} shards are not there; the first is {missing[0]}")
    return found.root, present


def _asked(shards: str | tuple[str, ...], storage: Storage, field: str) -> Iterator[tuple[str, str]]:
    """Each entry, and each line of a list, as it is to be shown, and as an absolute pattern."""
    for given in [shards] if isinstance(shards, str) else shards:
        if not _without_query(given).endswith(".txt"):
            yield storage.absolute(given), storage.absolute(given)
            continue
        for number, line in _lines(given, storage, field):
            pattern = storage.absolute(line)
            yield f"{pattern} (line {number} of {given})", pattern


def _lines(uri: str, storage: Storage, field: str) -> list[tuple[int, str]]:
    """The lines of a list with their numbers, without comments."""
    try:
        lines = storage.read(storage.absolute(uri)).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{field}: {uri} cannot be read as a list of shards: {error}") from error
    numbered = [(number, _COMMENT.sub("", line).strip()) for number, line in enumerate(lines, 1)]
    if not any(line for _, line in numbered):
        raise ConfigError(f"{field}: no shard found: {uri} is an empty list")
    return [(number, line) for number, line in numbered if line]


def expand_braces(pattern: str) -> list[str]:
    """`a{00..02}.tar` and `{x,y}.tar` → every name, in order; zero padding is kept."""
    pieces = _BRACE.split(pattern)
    literals, braces = pieces[::2], [_alternatives(brace) for brace in pieces[1::2]]
    names = []
    for choice in product(*braces):
        names.append(
            literals[0] + "".join(value + literal for value, literal in zip(choice, literals[1:], strict=True))
        )
    return names


def _alternatives(brace: str) -> list[str]:
    span = _RANGE.fullmatch(brace)
    if not span:
        return brace.split(",")
    first, last = span.groups()
    width = len(first) if first.startswith("0") else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]


def _look_up(asked: list[tuple[str, str]], storage: Storage) -> Iterator[Entry]:
    """What each pattern leads to. The folders of those that name files are listed once for all."""
    literal = {pattern for _, pattern in asked if not _is_pattern(pattern) or _is_there(pattern, storage)}
    names = {
        pattern: [pattern] if pattern in literal else expand_braces(pattern)
        for _, pattern in asked
        if pattern in literal or not _has_wildcard(pattern)
    }
    sizes = storage.sizes(name for each in names.values() for name in each if _names_a_file(name))
    for where, pattern in asked:
        root = None if pattern in literal else before_wildcards(pattern)
        if pattern not in names:
            yield from (_by_glob(name, _part(name, where), root, storage) for name in expand_braces(pattern))
            continue
        files = {name: sizes[name] for name in names[pattern] if name in sizes}
        if files or not names[pattern]:
            yield Entry(where, root or _parent(pattern), files)
        for name in names[pattern]:
            if name not in sizes:
                yield _below(name, _part(name, where), root, storage)


def _by_glob(pattern: str, where: str, root: str | None, storage: Storage) -> Entry:
    listing = storage.glob(pattern)
    entry = Entry(where, root or before_wildcards(pattern), glob=pattern, linked=listing.linked)
    entry.take(listing.sizes, listing.others)
    return entry


def _below(uri: str, where: str, root: str | None, storage: Storage) -> Entry:
    """What lies in a folder, or the file of that name."""
    listing = storage.listing(uri)
    if not listing.sizes and not listing.others:
        return Entry(where, root or _parent(uri), storage.sizes([uri]))
    entry = Entry(where, root or uri, place=storage.place(uri), linked=listing.linked)
    hidden = {name: HIDDEN for name in listing.sizes if is_hidden(name)}
    seen = {name: size for name, size in listing.sizes.items() if name not in hidden}
    entry.take(_put_below(uri, seen), _put_below(uri, {**listing.others, **hidden}))
    return entry


def _put_below(folder: str, found: Mapping[str, Value]) -> dict[str, Value]:
    return {f"{folder}/{name}": value for name, value in found.items()}


def _part(name: str, where: str) -> str:
    """How one of an entry's alternatives is shown."""
    return where if where.startswith(name) else f"{name} of {where}"


def _is_there(uri: str, storage: Storage) -> bool:
    """Whether something has a pattern for a name. A server may refuse to be asked for such a name."""
    try:
        return storage.exists(uri)
    except ConfigError:
        return False


def _is_pattern(uri: str) -> bool:
    return "{" in _without_query(uri) or _has_wildcard(uri)


def _has_wildcard(uri: str) -> bool:
    """`?` is none in a URL: a query begins there."""
    return _WILDCARD.search(_without_query(uri)) is not None


def _names_a_file(uri: str) -> bool:
    return is_shard(_without_query(uri)) or _without_query(uri) != uri


def _parent(uri: str) -> str:
    return _without_query(uri).rpartition("/")[0]


def _nothing_found(field: str, lost: list[Entry], num_entries: int) -> str:
    """Which entries name nothing that is there, and what was found in its place."""
    if not num_entries:
        return f"{field}: no shard found: an empty list"
    said = [f"{entry.where}: {_why_nothing(entry)}" for entry in lost[:_NAMED_AT_MOST]]
    if num_entries == 1:
        return f"{field}: no shard found at {said[0]}"
    head = f"{field}: no shard found at {len(lost)} of {num_entries} entries:"
    more = [f"and {len(lost) - len(said)} more"] if len(lost) > len(said) else []
    return "\n  ".join([head, *said, *more])


def _why_nothing(entry: Entry) -> str:
    if entry.left_out:
        return f"what is there is left out, {', '.join(map(str, _counted(entry.left_out)))}"
    if len(entry.sizes) > 1:
        return f"none of the {len(entry.sizes)} files that it names is there, the first being {next(iter(entry.sizes))}"
    return "nothing is there"


def _counted(left_out: Mapping[str, str]) -> tuple[LeftOut, ...]:
    """By reason, the commonest first."""
    uris: dict[str, list[str]] = {}
    for uri, why in left_out.items():
        uris.setdefault(why, []).append(uri)
    counted = (LeftOut(why, len(files), min(files)) for why, files in uris.items())
    return tuple(sorted(counted, key=lambda left_out: (-left_out.count, left_out.why)))


def _common_root(folders: Iterable[str]) -> str:
    """The longest folder that all of these share."""
    parts = [folder.split("/") for folder in set(folders)]
    shared = 0
    while all(len(part) > shared and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return "/".join(parts[0][:shared])


def _refuse_output_among_input(found: FoundTasks, sources: Storage, output: str, results: Storage) -> None:
    """Raise ConfigError where the output holds a shard of the input, or a later run would take its shards for input."""
    place = results.place(output)
    for uri, shard_place in _places(found.tasks, sources):
        if _is_within(shard_place, place):
            raise ConfigError(f"output.path {output} holds the input shard {uri}: choose another folder")
    names = {task.name.rpartition("/")[0]: task.name for task in found.tasks}.values()
    for entry in found.entries:
        written = [f"{folder}/{name}" for folder in {output, place} for name in names]
        whole_folders = [entry.place, *entry.linked.values()] if entry.place else []
        if any(_is_within(place, folder) for folder in whole_folders) or _matches_any(entry, sources, written):
            raise ConfigError(
                f"output.path {output} lies where input.shards looks, in {entry.where}: a later run would take its "
                "shards for input: choose another folder"
            )


def _places(tasks: list[ShardTask], storage: Storage) -> Iterator[tuple[str, str]]:
    """Each shard's URI, and where it truly lies."""
    folders: dict[str, str] = {}
    for task in tasks:
        folder, _, name = task.uri.rpartition("/")
        if folder not in folders:
            folders[folder] = storage.place(folder)
        yield task.uri, storage.place(task.uri) if os.path.islink(task.uri) else f"{folders[folder]}/{name}"


def _is_within(place: str, folder: str) -> bool:
    return f"{place}/".startswith(f"{folder.rstrip('/')}/")


def _matches_any(entry: Entry, storage: Storage, written: list[str]) -> bool:
    """Whether the entry's glob, by any of its spellings, would match files that are to be written."""
    if entry.glob is None:
        return False
    folder = before_wildcards(entry.glob)
    globs = {entry.glob, storage.place(folder) + entry.glob.removeprefix(folder)}
    by_links = [
        link + file.removeprefix(place)
        for link, place in entry.linked.items()
        for file in written
        if _is_within(file, place)
    ]
    return any(fits(file, glob) for file in [*written, *by_links] for glob in globs)


def _without_query(uri: str) -> str:
    """The signature of a URL is no part of its shard's name; elsewhere `?` is a letter, as in any file's name."""
    return uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri


def _relative(uri: str, root: str) -> str:
    prefix = root.rstrip("/") + "/"
    if not uri.startswith(prefix):
        raise ConfigError(f"input.root: {uri} does not lie below {root}")
    name = uri.removeprefix(prefix).lstrip("/")  # the root of two buckets is "s3:", and a slash more follows it
    if ".." in name.split("/"):
        raise ConfigError(f"input.shards: {uri} would lead out of the output: write it without `..`")
    return name
