"""Digests of what a model is made of: the SHA-256 of every file, folder of weights and plug-in that its card names.

A path stays the same when other weights are put there. So a run fills in `digests` of its cards before it begins
(`with_digests`), its output's config.json records them with the rest of the job's identity, and each worker compares
them with what it has loaded (`check_digests`). A large file is read once: its digest is kept in the cache folder for as
long as the file's place, size and times stay the same.

An option's value is called an address where it names a file, a folder, or a file of the hub.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError

from dr_pipeline.config.cards import Card
from dr_pipeline.config.job import Job
from dr_pipeline.config.plugin_source import source_version
from dr_pipeline.config.plugins import NAMING_CODE
from dr_pipeline.config.recipes import PACKAGE_SCHEME
from dr_pipeline.config.references import resolve, texts
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.networks.files import (
    CONFIG_NAMES,
    HUB,
    HUB_NAMES,
    RANDOM,
    SUFFIXES,
    cached_hub_file,
    hub_candidates,
    hub_file,
    hub_place,
    packaged,
    repo_and_file_of,
    resource,
)
from dr_pipeline.storage import Storage, cache_folder

AnyCard = TypeVar("AnyCard", bound=Card)

_WHOLE_MODEL = "whole model"
HUB_FILES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "weights": (HUB_NAMES, SUFFIXES),
    "model": (CONFIG_NAMES, ()),
    _WHOLE_MODEL: (("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"), ()),
}
"""What the hub's file of a kind of option is called, and what the name of a repository's only such file ends with.

Of a whole model in many files it is their list, with which they count too.
"""
_LIST_SUFFIX = ".safetensors.index.json"
_FILE_SUFFIXES = (*SUFFIXES, ".json", ".ckpt", ".onnx", ".model", ".npz", ".txt", ".gz")
_CODE = re.compile(r"[\w.]+:[A-Za-z_]\w*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEPT_FROM_BYTES = 8 << 20
"""Digests of smaller files are not kept: the files are read each time."""
_SETTLED_AFTER_SECONDS = 2.0
"""A younger file could be written again and keep its times: its digest is not kept."""

log = logging.getLogger(__name__)


def with_digests(job: Job) -> Job:
    """The job with `digests` filled in on the cards of all its models; see `card_with_digests`."""
    cards: dict[str, Sequence[Card]] = {
        "scorers": job.scorers,
        "captioners": job.captioners,
        "rewriters": job.rewriters,
        "teachers": job.teachers,
    }
    found = {kind: tuple(card_with_digests(card, job.plugin_dirs) for card in cards[kind]) for kind in cards}
    return job.model_copy(update=found)


def card_with_digests(card: AnyCard, plugin_dirs: Sequence[str] = ()) -> AnyCard:
    """The card with `digests` filled in. Raises ConfigError where the card gives another digest than a file has.

    A file that cannot be read here, but perhaps on a worker, is left out with a warning.
    """
    found = find_digests({**card.options, "use": card.use}, plugin_dirs, f"card {card.name}")
    for name in card.digests.keys() & found.keys():
        if card.digests[name] != found[name]:
            raise ConfigError(
                f"card {card.name}: digests.{name} is {card.digests[name]}, but what is there has {found[name]}: bring "
                f"the former back, or write the latter in the card"
            )
    return card.model_copy(update={"digests": {**found, **card.digests}})


def check_digests(card: Card, plugin_dirs: Sequence[str] = ()) -> None:
    """Compare the card's digests with the files here. Raises ModelError naming model, file and both digests.

    Is called after the model has been loaded, so that a file that was replaced meanwhile is noticed too.
    """
    values = dict(text_options({**card.options, "use": card.use}))
    for name, digest in card.digests.items():
        address = address_of(name, values.get(name, ""), card.options)
        found = _local_digest(kind_of_option(name, card.options), address, plugin_dirs) or "unknown"
        if found != digest:
            raise ModelError(
                f"card {card.name}: {name}: {address} is not what it was when the run, or the dataset, began: its "
                f"digest was {digest}, now it is {found}. Bring the former back, or choose another output.path"
            )


def find_digests(options: Mapping[str, Any], plugin_dirs: Sequence[str], model: str) -> dict[str, str]:
    """The digest of each file, folder of weights or plug-in that the options name, by the option's dotted name.

    A file of the hub is not downloaded: the hub knows its digest. What cannot be read is left out with a warning that
    names the model.
    """
    found = {}
    for name, value in text_options(options):
        try:
            address = address_of(name, value, options)
            on_hub, kind = address.startswith(HUB), kind_of_option(name, options)
            digest = _hub_digest(kind, address) if on_hub else _local_digest(kind, address, plugin_dirs)
        except ModelError as error:
            log.warning("%s: %s cannot be read here: if it is replaced, that will go unnoticed: %s", model, name, error)
            continue
        if digest:
            found[name] = digest
    return found


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, of a large one from the cache folder if the file has not changed since it was read."""
    before = path.stat()
    state = [str(path.resolve()), before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino, before.st_dev]
    kept_at = cache_folder() / "digests" / hashlib.sha256(json.dumps(state).encode()).hexdigest()
    is_large = before.st_size >= _KEPT_FROM_BYTES
    if is_large:
        with suppress(OSError, ValueError):
            kept = kept_at.read_text(encoding="ascii")
            if _SHA256.fullmatch(kept):
                return kept
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if is_large and time.time() - before.st_ctime > _SETTLED_AFTER_SECONDS:
        try:
            Storage().write(str(kept_at), digest.encode())
        except OSError as error:  # next time it is read again
            log.info("the digest of %s cannot be kept: %s", path, error)
    return digest


def text_options(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text in the options by its dotted name, its references replaced by what they stand for."""
    for name, text in texts(options):
        with suppress(ConfigError):  # some references stand for something on workers alone
            yield name, resolve(text, name)


def kind_of_option(name: str, options: Mapping[str, Any]) -> str:
    """The option's name; of a model whose card names no weights, as those of transformers, that it is a whole one."""
    return _WHOLE_MODEL if name == "model" and "weights" not in options else name


def address_of(name: str, value: str, options: Mapping[str, Any]) -> str:
    """Where the weights of a tag lie; any other value unchanged. Raises ModelError as `weights_address`."""
    model = options.get("model")
    is_address = "/" in value or value.endswith(SUFFIXES) or value == RANDOM
    if name != "weights" or is_address or not isinstance(model, str):
        return value
    from dr_pipeline.networks.weights import weights_address  # loads torch, which only tags need

    return weights_address(model, value)


def _local_digest(kind: str, address: str, plugin_dirs: Sequence[str]) -> str | None:
    """The digest of a plug-in, or of the local file or folder behind an address; None where the value is neither.

    A remote file is downloaded, as loading the model does. Raises ModelError where a file cannot be read.
    """
    if kind in NAMING_CODE and _CODE.fullmatch(address):
        return source_version(address, plugin_dirs)
    try:
        path = _local_path(kind, address)
        if path is None or not path.is_dir():
            return _digest_with_parts(path) if path else None
        files = sorted({file for folder in {path, *_weight_folders(path)} for file in _visible_files(folder)})
        return _digest_of([(file.relative_to(path).as_posix(), file_digest(file)) for file in files])
    except OSError as error:
        raise ModelError(f"{address} cannot be read: {error}") from error


def _digest_with_parts(path: Path) -> str:
    """The digest of a file, and of those beside it that hold its weights: an ONNX file's data, a list's files."""
    parts = _listed(path)
    if path.suffix == ".onnx":
        parts = [name for name in (f"{path.name}.data", f"{path.name}_data") if path.with_name(name).is_file()]
    if not parts:
        return file_digest(path)
    return _digest_of([(name, file_digest(path.with_name(name))) for name in (path.name, *parts)])


def _digest_of(contents: Sequence[tuple[str, str]]) -> str:
    """The digest of files by their names and digests."""
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def _listed(path: Path) -> list[str]:
    """The names of the files beside a list that hold a model's weights; [] of another file. Raises ModelError."""
    if not path.name.endswith(_LIST_SUFFIX):
        return []
    try:
        names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
        return [path.with_name(name).name for name in names]  # that are plain names
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} is no list of a model's files") from error


def _local_path(kind: str, address: str) -> Path | None:
    """The local file or folder of weights behind an address; None where the value names no file of a model."""
    if address.startswith(HUB):
        repo = address.removeprefix(HUB)
        names, suffixes = HUB_FILES.get(kind, ((), ()))
        return hub_file(repo, names, suffixes) if names or repo_and_file_of(repo)[1] else None
    if address.startswith(PACKAGE_SCHEME):
        return packaged(address)
    if "://" in address:
        is_page = address.startswith(("http://", "https://"))
        return None if is_page and not address.partition("?")[0].endswith(_FILE_SUFFIXES) else resource(address)
    path = Path(address).expanduser()
    try:
        if (path.is_file() and ("/" in address or path.suffix)) or (path.is_dir() and _weight_folders(path)):
            return path
    except (OSError, ValueError):  # the text cannot be a path
        return None
    return resource(address) if address.endswith(SUFFIXES) else None


def _weight_folders(folder: Path) -> list[Path]:
    """Those of a folder and its direct subfolders that hold weights; [] for a folder that holds whole projects."""
    inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return [path for path in (folder, *inner) if any(file.suffix in SUFFIXES for file in _visible_files(path))]


def _visible_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


def _hub_digest(kind: str, address: str) -> str | None:
    """The digest of a file of the hub, or of all that a list names, by the hub or by its cache here.

    None where the repository has no such file. The hub tells the SHA-256 of a large file; a small one is downloaded.
    Raises ModelError where the hub cannot be reached and the cache lacks the file.
    """
    repo, file = repo_and_file_of(address.removeprefix(HUB))
    names, suffixes = ((file,), ()) if file else HUB_FILES.get(kind, ((), ()))
    try:
        for candidate in hub_candidates(repo, names, suffixes):
            with suppress(EntryNotFoundError):
                digest = _file_digest_on_hub(repo, candidate)
                if not candidate.endswith(_LIST_SUFFIX):
                    return digest
                parts = _listed(hub_file(f"{repo}/{candidate}", ()))
                return _digest_of([(candidate, digest), *((name, _file_digest_on_hub(repo, name)) for name in parts)])
    except Exception:  # offline, gated, no such repository: the client raises many kinds
        if cached := cached_hub_file(repo, names, suffixes):
            with suppress(OSError):  # one of the files is not in the cache
                return _digest_with_parts(cached)
        raise ModelError(f"{address} is not at hand") from None
    return None


def _file_digest_on_hub(repo: str, file: str) -> str:
    etag = get_hf_file_metadata(hf_hub_url(**hub_place(repo), filename=file)).etag or ""
    return etag if _SHA256.fullmatch(etag) else file_digest(hub_file(f"{repo}/{file}", ()))
