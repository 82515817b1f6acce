"""From a job to shard tasks: what the input pattern names, and which of it is not done yet."""

import re
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from dr_pipeline.config import Input, Job
from dr_pipeline.errors import ConfigError
from dr_pipeline.records import ShardTask
from dr_pipeline.shards.ledger import Ledger
from dr_pipeline.shards.storage import Storage, refuse_fleeting

_BRACE = re.compile(r"\{([^{}]*)\}")
_WILDCARD = re.compile(r"[*?\[]")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Plan:
    """A job with its paths made absolute, and its shards."""

    job: Job
    todo: tuple[ShardTask, ...]
    done: tuple[ShardTask, ...]

    def only(self, names: set[str]) -> "Plan":
        """The plan with those of its shards left to do that have these names."""
        return replace(self, todo=tuple(task for task in self.todo if task.name in names))

    @property
    def missing(self) -> tuple[ShardTask, ...]:
        """Shards that the pattern names but a listing of their folder does not show."""
        return tuple(task for task in self.todo if task.size_bytes is None)


def make_plan(job: Job) -> Plan:
    """List the input once per folder and the output's reports once. Raises ConfigError; writes nothing."""
    sources = Storage(job.input.storage)
    root, tasks = find_shards(job.input, sources)
    absolute_output = Storage(job.output.storage).absolute(job.output.path)
    refuse_fleeting(absolute_output, "output.path")
    below_output = f"{absolute_output}/"
    inside = next((task for task in tasks if task.uri.startswith(below_output)), None)
    if inside:
        raise ConfigError(f"output.path {absolute_output} holds the input shard {inside.uri}: choose another folder")
    _refuse_run_folders(absolute_output)
    job = job.model_copy(
        update={
            "input": job.input.model_copy(update={"root": root}),
            "output": job.output.model_copy(update={"path": absolute_output}),
        }
    )
    job = Ledger(job).known_job()
    done_names = Ledger(job).done()
    todo = tuple(task for task in tasks if task.name not in done_names)
    done = tuple(task for task in tasks if task.name in done_names)
    return Plan(job, todo, done)


def _refuse_run_folders(output: str) -> None:
    """Raise ConfigError where the output would lie in a training run's folder, which may be removed as a whole."""
    for folder in () if "://" in output else (Path(output), *Path(output).parents):
        if (folder / "job.json").is_file() and (folder / "checkpoints").is_dir():
            raise ConfigError(f"output.path {output} lies in the training run {folder}: choose a folder outside of it")


def find_shards(source: Input, storage: Storage) -> tuple[str, list[ShardTask]]:
    """The root folder and the shards, sorted by name. Raises ConfigError when there is none."""
    root, sizes = list_shards(source.shards, storage, "input.shards")
    root = storage.absolute(source.root) if source.root else root
    tasks = [ShardTask(_relative(_without_query(uri), root), uri, size) for uri, size in sizes.items()]
    if len({task.name for task in tasks}) < len(tasks):
        raise ConfigError("input.shards: two URLs differ only in their queries: both would be one output file")
    return root, tasks


def list_shards(shards: str | tuple[str, ...], storage: Storage, field: str) -> tuple[str, dict[str, int | None]]:
    """What a job's `field` names: the folder that all lie in, and URI → bytes, sorted; None where a shard is not there.

    Raises ConfigError when there is none.
    """
    patterns = [shards] if isinstance(shards, str) else list(shards)
    if len(patterns) == 1 and patterns[0].endswith(".txt"):
        patterns = _listed(patterns[0], storage, field)
    patterns = [storage.absolute(pattern) for pattern in patterns]
    sizes = _expand(patterns, storage)
    if all(size is None for size in sizes.values()):
        raise ConfigError(f"{field}: no shard found; the first one looked for is {_first(patterns)}")
    return _common_root(patterns), dict(sorted(sizes.items()))


def list_present_shards(shards: str | tuple[str, ...], storage: Storage, field: str) -> tuple[str, dict[str, int]]:
    """As `list_shards`, for who needs every one of them. Raises ConfigError naming the first that is not there."""
    root, sizes = list_shards(shards, storage, field)
    present = {uri: size for uri, size in sizes.items() if size is not None}
    missing = [uri for uri in sizes if uri not in present]
    if missing:
        raise ConfigError(f"{field}: {len(missing)} of {len(sizes)} shards are not there; the first is {missing[0]}")
    return root, present


def _first(patterns: list[str]) -> str:
    if not patterns:
        return "none: an empty list"
    return next(iter(expand_braces(patterns[0])), patterns[0])


def _listed(uri: str, storage: Storage, field: str) -> list[str]:
    try:
        lines = storage.read(storage.absolute(uri)).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{field}: {uri} cannot be read as a list of shards: {error}") from error
    return [line.strip() for line in lines if line.strip()]


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


def _expand(patterns: list[str], storage: Storage) -> dict[str, int | None]:
    """URI → bytes of what absolute patterns name. The folders of those without a wildcard are listed once for all."""
    sizes: dict[str, int | None] = {}
    named: list[str] = []
    for pattern in patterns:
        if _WILDCARD.search(pattern):
            for name in expand_braces(pattern):
                sizes.update(storage.glob(name))
        elif "{" in pattern or pattern.endswith(".tar"):
            named += expand_braces(pattern)
        else:
            sizes.update((f"{pattern}/{name}", size) for name, size in storage.shards(pattern).items())
    return sizes | _sizes(named, storage)


def _sizes(uris: list[str], storage: Storage) -> dict[str, int | None]:
    listings = {folder: storage.siblings(folder) for folder in sorted({uri.rpartition("/")[0] for uri in uris})}
    parts = ((uri, *uri.rpartition("/")) for uri in uris)
    return {uri: listings[folder].get(name) for uri, folder, _, name in parts}


def _common_root(patterns: list[str]) -> str:
    """The longest folder that all absolute patterns share, each taken up to its first wildcard."""
    parts = [folder.split("/") for folder in {_folder(pattern) for pattern in patterns}]
    shared = 0
    while all(len(part) > shared and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return "/".join(parts[0][:shared])


def _folder(pattern: str) -> str:
    """What of an absolute pattern holds for everything that it names."""
    literal = re.split(r"[{*?\[]", pattern, maxsplit=1)[0]
    names_a_folder = literal == pattern and not literal.endswith(".tar")
    return literal if names_a_folder else literal.rpartition("/")[0]


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
