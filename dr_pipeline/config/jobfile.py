"""Reads YAML files of jobs and cards, with overrides. An error names every bad field and the nearest valid one."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dr_pipeline.config import plugins
from dr_pipeline.config.card_files import overlay_cards, read_card, relative_to_cwd
from dr_pipeline.config.cards import Card
from dr_pipeline.config.job import Job
from dr_pipeline.config.recipes import located, plugin_folders
from dr_pipeline.config.references import wrong_options, wrong_references
from dr_pipeline.config.training import TrainJob
from dr_pipeline.config.wording import shown, what_is_wrong
from dr_pipeline.config.yaml_file import NO_YAML, parse, read_yaml, without_snippet
from dr_pipeline.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
AnyCard = TypeVar("AnyCard", bound=Card)


def load(path: str | Path, kind: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read a job file, apply `key.path=value` overrides and validate. Raises ConfigError naming every bad field."""
    path = located(path)
    tree = read_yaml(path, "job file")
    for override in overrides:
        _override(tree, override)
    folders = plugin_folders(path)
    for card in overlay_cards(tree, path.parent):
        folders += plugin_folders(card)[-1:]  # the card's own; of a recipe, the folder that all recipes import from
    _check_options(tree, path)
    _add_plugin_dirs(tree, path, folders)
    return validate(kind, tree, str(path))


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """The reinforcing job of a YAML file, with overrides such as `workers.engine=local`. Raises ConfigError."""
    return load(path, Job, overrides)


def load_train_job(path: str | Path, overrides: Sequence[str] = ()) -> TrainJob:
    """The training job of a YAML file, with overrides such as `schedule.steps=100`. Raises ConfigError."""
    return load(path, TrainJob, overrides)


def kind_of(path: str | Path, kinds: Mapping[str, type[BaseModel]]) -> str | None:
    """The name of the kind of job whose required fields a file has; None where there is none. `name` is not needed."""
    try:
        keys = read_yaml(located(path), "file").keys()
    except ConfigError:
        return None
    required = {
        name: {key for key, field in kind.model_fields.items() if field.is_required()} - {"name"}
        for name, kind in kinds.items()
    }
    return next((name for name, needed in required.items() if needed <= keys), None)


def load_card(path: str | Path, kind: type[AnyCard]) -> AnyCard:
    """Read one card file as a teacher's or a captioner's. Raises ConfigError."""
    path = located(path)
    tree = read_card(path, "card")
    _check_options(tree, path)
    _refuse_plugins(tree, path)
    return validate(kind, tree, str(path))


def _check_options(tree: dict[str, Any], path: Path) -> None:
    """Raise ConfigError where options hold a secret, which would be stored, or a reference of no known kind."""
    try:
        found = [f"  {line}" for line in _wrong_options(tree)]
    except RecursionError:
        raise ConfigError(f"{path}: a value holds itself: an &anchor with its own *alias in it") from None
    if found:
        raise ConfigError("\n".join([f"{path}:", *found]))


def _wrong_options(tree: Any, name: str = "") -> Iterator[str]:
    """What is wrong with the options of plug-ins and storages anywhere in a tree, as `field: sentence`."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        field = f"{name}.{key}".removeprefix(".")
        if key in ("options", "connection"):
            yield from wrong_options(value, field)
        elif key == "storage":
            yield from wrong_references(value, field)
        else:
            yield from _wrong_options(value, field)


def _add_plugin_dirs(tree: dict[str, Any], path: Path, folders: list[Path]) -> None:
    """Add `folders` to the job's plugin_dirs. Where plug-ins are refused, set none, or raise ConfigError."""
    if plugins.are_refused():
        _refuse_plugins(tree, path)
        if tree.get("plugin_dirs"):
            raise ConfigError(f"{path}: plugin_dirs: plug-ins are refused here (--no-plugins)")
        tree["plugin_dirs"] = []
        return
    plugin_dirs = tree.setdefault("plugin_dirs", ["."])
    if isinstance(plugin_dirs, list):
        added = dict.fromkeys(relative_to_cwd(folder) for folder in folders)
        tree["plugin_dirs"] = [*plugin_dirs, *(folder for folder in added if folder not in plugin_dirs)]


def _refuse_plugins(tree: dict[str, Any], path: Path) -> None:
    """Raise ConfigError naming the cards whose code is not the package's own, where plug-ins are refused."""
    found = [*plugins.find_plugins(tree)] if plugins.are_refused() else []
    if found:
        lines = "\n".join(f"  {line}" for line in found)
        raise ConfigError(f"{path}: plug-ins are refused here (--no-plugins):\n{lines}")


def _override(tree: dict[str, Any], override: str) -> None:
    """Set one dotted key; a number in the path is a position in a list. The value is YAML."""
    dotted, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r}: write it as key.path=value")
    try:
        value = parse(text)
    except NO_YAML as error:
        raise ConfigError(f"override {dotted}: its value is not YAML: {without_snippet(error)}") from None
    *parents, last = dotted.split(".")
    if not all((*parents, last)):
        raise ConfigError(f"override {override!r}: a key's name is missing: write it as key.path=value")
    node: Any = tree
    for parent, below in pairwise((*parents, last)):
        is_new = isinstance(node, dict) and parent not in node
        if is_new and below.isdecimal():
            raise ConfigError(f"override {dotted}: the job file has no list {parent}: give it whole, {parent}=[…]")
        node = node[_position(node, parent, dotted)] if isinstance(node, list) else node.setdefault(parent, {})
        if not isinstance(node, dict | list):
            raise ConfigError(f"override {dotted}: {parent} is {shown(node)}, which has no fields")
    node[_position(node, last, dotted) if isinstance(node, list) else last] = value


def _position(items: list[Any], name: str, dotted: str) -> int:
    if not name.isdecimal() or int(name) >= len(items):
        there = f"positions are 0 to {len(items) - 1}" if items else "the list is empty"
        raise ConfigError(f"override {dotted}: {name!r} is not a position in a list of {len(items)}: {there}")
    return int(name)


def validate(kind: type[Model], tree: dict[str, Any], where: str) -> Model:
    """A tree as YAML gives it → the model. Raises ConfigError with a line for each problem; `where` heads them."""
    try:
        try:
            return kind.model_validate(tree)
        except ValidationError as error:
            lines = [f"  {line}" for line in what_is_wrong(kind, error)]
    except RecursionError:
        raise ConfigError(f"{where}: a value holds itself: an &anchor with its own *alias in it") from None
    raise ConfigError("\n".join([f"{where}:", *lines]))
