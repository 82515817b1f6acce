"""What a model is made of: the SHA-256 of every file and plug-in source that its card names.

A path stays the same when other weights are put there. So a run takes these digests before it begins, its output
records them, and each worker compares them with what it loads. A large file is read once: its digest is kept on this
machine as long as size, times and place of the file stay.
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

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

from dr_pipeline.config.cards import Card
from dr_pipeline.config.job import Job
from dr_pipeline.config.plugin_source import source_version
from dr_pipeline.config.recipes import PACKAGE_SCHEME
from dr_pipeline.config.references import resolve, texts
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.networks.files import HUB, HUB_NAMES, RANDOM, SUFFIXES, hub_file, resource
from dr_pipeline.storage import Storage, cache_folder

AnyCard = TypeVar("AnyCard", bound=Card)

_HUB_FILES = {"weights": HUB_NAMES, "model": ("open_clip_config.json",)}
_FILE_SUFFIXES = (*SUFFIXES, ".json", ".ckpt", ".onnx", ".model", ".npz", ".txt", ".gz")
_CODE = re.compile(r"[\w.]+:[A-Za-z_]\w*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEPT_FROM_BYTES = 8 << 20
_SETTLED_AFTER_SECONDS = 2.0
"""A file that was written just now could be written again without another time."""

log = logging.getLogger(__name__)


def with_digests(job: Job) -> Job:
    """The job with the digests of all its models' files. Raises ConfigError where a card expects another one.

    A file that cannot be read here, but perhaps on a worker, is left out with a warning.
    """
    dirs = job.plugin_dirs
    return job.model_copy(
        update={
            "captioners": tuple(card_with_digests(card, dirs) for card in job.captioners),
            "teachers": tuple(card_with_digests(card, dirs) for card in job.teachers),
        }
    )


def card_with_digests(card: AnyCard, plugin_dirs: Sequence[str] = ()) -> AnyCard:
    """The card with the digests of its files. Raises ConfigError where it expects another one."""
    found = find_digests({**card.options, "use": card.use}, plugin_dirs, f"card {card.name}")
    for name in card.digests.keys() & found.keys():
        if card.digests[name] != found[name]:
            raise ConfigError(
                f"card {card.name}: digests.{name} is {card.digests[name]}, but what is there has {found[name]}: bring "
                f"the former back, or write the latter in the card"
            )
    return card.model_copy(update={"digests": {**found, **card.digests}})


def check_digests(card: Card, plugin_dirs: Sequence[str] = ()) -> None:
    """Compare what a card's model has loaded here with its digests. Raises ModelError naming model, file and both.

    To be called when the model is there: so a file that is replaced while it is read is noticed too.
    """
    addresses = dict(_named({**card.options, "use": card.use}))
    for name, digest in card.digests.items():
        address = _meant(addresses.get(name, ""), name, card.options)
        found = _of_what_is_loaded(address, name, plugin_dirs) or "unknown"
        if found != digest:
            raise ModelError(
                f"card {card.name}: {name}: {address} is not what it was when the run, or the dataset, began: its "
                f"digest was {digest}, now it is {found}. Bring the former back, or choose another output.path"
            )


def find_digests(options: Mapping[str, Any], plugin_dirs: Sequence[str], model: str) -> dict[str, str]:
    """By dotted name of the option the digest of each file, folder of weights or plug-in that options name.

    Files of the hub are not downloaded. What cannot be read is left out with a warning that names the model.
    """
    found = {}
    for name, value in _named(options):
        try:
            address = _meant(value, name, options)
            digest = (
                _of_hub(address, name) if address.startswith(HUB) else _of_what_is_loaded(address, name, plugin_dirs)
            )
        except ModelError as error:
            log.warning("%s: %s cannot be read here: if it is replaced, that will go unnoticed: %s", model, name, error)
            continue
        if digest:
            found[name] = digest
    return found


def file_digest(path: Path) -> str:
    """The SHA-256 of a file; of a large one that is as it was, from the note of its last reading."""
    before = path.stat()
    if before.st_size < _KEPT_FROM_BYTES:
        return _read_digest(path)
    state = [str(path.resolve()), before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino, before.st_dev]
    note = cache_folder() / "digests" / hashlib.sha256(json.dumps(state).encode()).hexdigest()
    with suppress(OSError, ValueError):
        kept = note.read_text(encoding="ascii")
        if _SHA256.fullmatch(kept):
            return kept
    digest = _read_digest(path)
    if time.time() - before.st_ctime > _SETTLED_AFTER_SECONDS:
        try:
            Storage().write(str(note), digest.encode())
        except OSError as error:  # next time it is read again
            log.info("the digest of %s cannot be kept: %s", path, error)
    return digest


def _read_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text in options, by its dotted name, with what its references stand for."""
    for name, text in texts(options):
        with suppress(ConfigError):  # what a reference stands for may be known to the workers alone
            yield name, resolve(text, name)


def _meant(value: str, name: str, options: Mapping[str, Any]) -> str:
    """The address behind a tag of open_clip's; any other value as it is. Raises ModelError as `pretrained_cfg` does."""
    model = options.get("model")
    is_address = "/" in value or value.endswith(SUFFIXES) or value == RANDOM
    if name != "weights" or is_address or not isinstance(model, str):
        return value
    from dr_pipeline.networks.weights import pretrained_cfg  # torch, which only tags need

    record = pretrained_cfg(model, value)
    repository = record.get("hf_hub", "").strip("/")
    return f"{HUB}{repository}" if repository else record.get("url", value)


def _of_what_is_loaded(address: str, name: str, plugin_dirs: Sequence[str]) -> str | None:
    """The digest of what a model that is loaded here gets; None where the text names neither file nor code.

    Raises ModelError where it names a file that cannot be read.
    """
    if name in ("use", "tokenizer") and _CODE.fullmatch(address):
        return source_version(address, plugin_dirs)
    try:
        path = _local(address, name)
        if path is None:
            return None
        if path.is_dir():
            return _folder_digest(path)
        return file_digest(path)
    except OSError as error:
        raise ModelError(f"{address} cannot be read: {error}") from error


def _local(address: str, name: str) -> Path | None:
    """The local file, or folder of weights, that an option's value stands for."""
    if address.startswith(HUB):
        repo = address.removeprefix(HUB)
        return hub_file(repo, _HUB_FILES[name], SUFFIXES) if name in _HUB_FILES or repo.count("/") > 1 else None
    if address.startswith(PACKAGE_SCHEME):
        return resource(address)
    if "://" in address:
        is_page = address.startswith(("http://", "https://"))
        return None if is_page and not address.partition("?")[0].endswith(_FILE_SUFFIXES) else resource(address)
    path = Path(address).expanduser()
    try:
        if path.is_file() and ("/" in address or path.suffix):
            return path
        if path.is_dir() and _weight_folders(path):
            return path
    except (OSError, ValueError):  # no name of a file
        return None
    return resource(address) if address.endswith(SUFFIXES) else None


def _folder_digest(folder: Path) -> str:
    """Of the folder's own files and of those beside weights one folder below."""
    files = sorted({file for place in {folder, *_weight_folders(folder)} for file in _shown_files(place)})
    contents = [(file.relative_to(folder).as_posix(), file_digest(file)) for file in files]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def _weight_folders(folder: Path) -> list[Path]:
    """Which of a folder and those directly in it hold weights; a folder that holds whole projects is none."""
    inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return [path for path in (folder, *inner) if any(file.suffix in SUFFIXES for file in _shown_files(path))]


def _shown_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


def _of_hub(address: str, name: str) -> str | None:
    """What the hub, or its cache here, says of a repository's file: the SHA-256 of one that is stored as large."""
    org, _, rest = address.removeprefix(HUB).partition("/")
    repo_name, _, file = rest.partition("/")
    for candidate in (file,) if file else _HUB_FILES.get(name, ()):
        repo = f"{org}/{repo_name}"
        try:
            etag = get_hf_file_metadata(hf_hub_url(repo, candidate)).etag or ""
        except EntryNotFoundError:
            continue
        except Exception:  # offline, gated, no such repository: whatever the client makes of it
            cached = try_to_load_from_cache(repo, candidate)
            if isinstance(cached, str):
                return file_digest(Path(cached))
            raise ModelError(f"{address} is not at hand") from None
        if _SHA256.fullmatch(etag):
            return etag
        return file_digest(hub_file(f"{repo}/{candidate}", ()))
    return None
