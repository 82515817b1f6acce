"""Evaluation sets: the images of tars in CLIP_benchmark's layout, or of a folder of images for each class."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, zip_longest
from typing import Generic, NamedTuple, TypeVar

from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

from dr_pipeline.config.evaluation import Classification, Retrieval
from dr_pipeline.dataset.sample import IMAGE_EXTS, Sample
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.dataset.shard_patterns import find_shards
from dr_pipeline.errors import ConfigError, ShardError
from dr_pipeline.storage import Storage
from dr_pipeline.storage.naming import is_shard
from dr_pipeline.words import plural

log = logging.getLogger(__name__)

Target = TypeVar("Target")
Template = Callable[[str], str]

_CLASS_NAMES = "classnames.txt"
_TEMPLATES = "zeroshot_classification_templates.txt"
_OPENAI = "openai"


class EvaluationImage(NamedTuple, Generic[Target]):
    """An encoded image, and what a model is to find for it: its label, or its captions."""

    read: Callable[[], bytes]
    target: Target


@dataclass(frozen=True)
class LabelledSet:
    """Images, each with its label: an index of `class_names`."""

    class_names: list[str]
    templates: list[Template]
    items: Iterator[EvaluationImage[int]]


@dataclass(frozen=True)
class _Source:
    """Where a task's images lie: in tars, or in a folder for each class."""

    field: str
    root: str
    storage: Storage
    tars: tuple[str, ...]
    images_by_class: dict[str, list[str]]
    """The name of each class folder → its images' URIs; empty where there are tars."""


def open_labelled(task: Classification) -> LabelledSet:
    """A classification task's images, class names and templates. Raises ConfigError naming what is missing."""
    source = _find(task, "classification")
    class_names = _class_names(task, source)
    items = _labels_of_folders(source) if source.images_by_class else _labels_of_tars(source, len(class_names))
    return LabelledSet(class_names, _templates(task, source), items)


def open_classes(task: Classification, num_classes: int) -> Iterator[EvaluationImage[int]]:
    """A classification task's images with their labels, for a classifier. Raises ConfigError naming what is missing."""
    source = _find(task, "classification")
    folders = len(source.images_by_class)
    if folders not in (0, num_classes):
        raise ConfigError(f"{source.field}: {source.root} has {folders} class folders, the model {num_classes} classes")
    return _labels_of_folders(source) if folders else _labels_of_tars(source, num_classes)


def name_classes(task: Classification, num_classes: int) -> list[str]:
    """The names of a classifier's classes, as far as the task has them; else their numbers."""
    try:
        names = _class_names(task, _find(task, "classification"))
    except ConfigError:
        names = []
    return names if len(names) == num_classes else [f"class {number}" for number in range(num_classes)]


def open_captioned(task: Retrieval) -> Iterator[EvaluationImage[list[str]]]:
    """A retrieval task's images, each with its captions. Raises ConfigError where an image has no caption."""
    source = _find(task, "retrieval")
    if source.images_by_class:
        raise ConfigError(f"{source.field}: {source.root} holds images without captions; retrieval takes tars")
    return _captions_of_tars(source)


def _find(task: Classification | Retrieval, kind: str) -> _Source:
    """Where a task's images lie; `kind`: the field of `tasks` that it is in. Raises ConfigError where none are."""
    data, storage, field = task.data, Storage(task.storage), f"tasks.{kind}.{task.name}.data"
    folder = storage.absolute(data) if isinstance(data, str) else ""
    if folder and not is_shard(folder) and storage.is_folder(folder) and not storage.shards(folder):
        return _Source(field, folder, storage, (), _images_by_class(folder, storage, field))
    shards = find_shards(data, storage, field)
    return _Source(field, shards.root, storage, tuple(shards.all_present()), {})


def _images_by_class(folder: str, storage: Storage, field: str) -> dict[str, list[str]]:
    """The images' URIs by class folder. Raises ConfigError where a folder has no image, or a link leads nowhere."""
    listing = storage.listing(folder)
    images: dict[str, list[str]] = {}
    others = []
    for name in sorted(listing.sizes):
        class_folder, slash, file = name.partition("/")
        if not slash or name.startswith("."):
            continue
        uris = images.setdefault(class_folder, [])
        if file.rpartition(".")[2].lower() in IMAGE_EXTS:
            uris.append(f"{folder}/{name}")
        else:
            others.append(name)
    if not any(images.values()):
        raise ConfigError(f"{field}: neither tars nor folders of images ({', '.join(IMAGE_EXTS)}) at {folder}")
    lost = dict.fromkeys((name for name, uris in images.items() if not uris), "holds no image") | listing.others
    if lost:
        raise ConfigError(f"{field}: {folder}: {', '.join(f'{name}: {why}' for name, why in islice(lost.items(), 5))}")
    if others:
        log.warning(
            "%s: %s not named as an image is, such as %s/%s", field, plural(len(others), "file"), folder, others[0]
        )
    return images


def _labels_of_folders(source: _Source) -> Iterator[EvaluationImage[int]]:
    """One image of each class after the other: the first ones are of all classes."""
    labelled = [[(uri, label) for uri in uris] for label, uris in enumerate(source.images_by_class.values())]
    for uri, label in filter(None, chain.from_iterable(zip_longest(*labelled))):
        yield EvaluationImage(partial(source.storage.read, uri), label)


def _labels_of_tars(source: _Source, num_classes: int) -> Iterator[EvaluationImage[int]]:
    for where, sample in _samples(source):
        if "cls" not in sample.members:
            there = ", ".join(sorted(sample.members))
            raise ConfigError(f"{where} has no cls member, only {there}: it is not labelled")
        text = sample.members["cls"].decode("utf-8", "replace").strip()
        if not text.isdecimal() or int(text) >= num_classes:
            raise ConfigError(
                f"{where}: its label {text!r} is none of the {num_classes} classes, 0 to {num_classes - 1}"
            )
        yield EvaluationImage(partial(getattr, sample, "image"), int(text))


def _captions_of_tars(source: _Source) -> Iterator[EvaluationImage[list[str]]]:
    for where, sample in _samples(source):
        lines = sample.members.get("txt", b"").decode("utf-8", "replace").splitlines()
        captions = [line.strip() for line in lines if line.strip()]
        if not captions:
            there = ", ".join(sorted(sample.members))
            raise ConfigError(f"{where} has no captions: a txt member, one a line (it has {there})")
        yield EvaluationImage(partial(getattr, sample, "image"), captions)


def _samples(source: _Source) -> Iterator[tuple[str, Sample]]:
    """Each sample of the tars, and where it is, for errors."""
    for uri in source.tars:
        try:
            with source.storage.open(uri) as stream:
                for sample in read_samples(stream):
                    yield f"{uri}: {sample.key}", sample
        except ShardError as error:
            raise ShardError(f"{uri}: {error}") from error


def _class_names(task: Classification, source: _Source) -> list[str]:
    given = task.class_names
    if given == _OPENAI:
        names = list(IMAGENET_CLASSNAMES)
    elif given is None and source.images_by_class:
        names = _beside(source, _CLASS_NAMES) or list(source.images_by_class)
    else:
        names = _lines(given, source, _CLASS_NAMES, f"tasks.classification.{task.name}.class_names")
    folders = len(source.images_by_class)
    if folders and len(names) != folders:
        raise ConfigError(
            f"{source.field}: {source.root} has {folders} class folders, and there are {len(names)} class names: "
            "name the folders' classes in the folders' alphabetical order"
        )
    return names


def _templates(task: Classification, source: _Source) -> list[Template]:
    if task.templates == _OPENAI:
        return list(OPENAI_IMAGENET_TEMPLATES)
    field = f"tasks.classification.{task.name}.templates"
    templates = _lines(task.templates, source, _TEMPLATES, field)
    for template in templates:
        if "{}" not in template and "{c}" not in template:
            raise ConfigError(f"{field}: {template!r} has no {{}} or {{c}} where the class goes")
    return [partial(_fill, template) for template in templates]


def _fill(template: str, class_name: str) -> str:
    # Not str.format: a template from a file could reach into objects.
    return template.replace("{c}", class_name).replace("{}", class_name)


def _lines(given: tuple[str, ...] | str | None, source: _Source, file: str, field: str) -> list[str]:
    """The given list, or the lines of the text file that is named, or of `file` beside the data. Raises ConfigError."""
    if isinstance(given, tuple):
        lines: list[str] | None = list(given)
    elif given is not None:
        lines = _read_lines(Storage(), given)
        if lines is None:
            raise ConfigError(f"{field}: no file at {given}")
    else:
        lines = _beside(source, file)
        if lines is None:
            raise ConfigError(
                f"{field}: required, as there is no {file} in {source.root} or the folder above: "
                "a list, a text file with one a line, or openai"
            )
    if not lines:
        raise ConfigError(f"{field}: an empty list")
    return lines


def _beside(source: _Source, file: str) -> list[str] | None:
    """A text file's lines, from the data's folder or the one above: CLIP_benchmark has a folder for each split."""
    found = _read_lines(source.storage, f"{source.root}/{file}")
    return found if found is not None else _read_lines(source.storage, f"{source.root.rpartition('/')[0]}/{file}")


def _read_lines(storage: Storage, uri: str) -> list[str] | None:
    try:
        text = storage.read(uri).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{uri} cannot be read: {type(error).__name__}: {error}") from error
    return [line.strip() for line in text.strip().splitlines()]
