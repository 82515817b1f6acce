"""Reads YAML files of jobs and cards, with overrides. An error names every bad field and the nearest valid one."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from dr_pipeline.config import plugins
from dr_pipeline.config.cards import Card
from dr_pipeline.config.job import Job
from dr_pipeline.config.recipes import PACKAGE_SCHEME, located, plugin_folders
from dr_pipeline.config.references import wrong_options, wrong_references
from dr_pipeline.config.training import TrainJob
from dr_pipeline.errors import ConfigError, nearest

Model = TypeVar("Model", bound=BaseModel)
AnyJob = TypeVar("AnyJob", bound=BaseModel)
AnyCard = TypeVar("AnyCard", bound=Card)

# The parser raises these: its own, those of Python's dates and integers, and one for too many brackets.
_NO_YAML = (yaml.YAMLError, ValueError, RecursionError)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A loader that refuses a repeated key in a mapping, where the plain one takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Raise MarkedYAMLError with the lines of a repeated key. Keys that `<<` merges in may be given again."""
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in first:
                where = f"on line {first[key.tag, key.value]} and again on line {line}"
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is given {where}: keep one of them")
            first[key.tag, key.value] = line
        return node


def _parse(text: str) -> Any:
    loader = _UniqueKeyLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def load(path: str | Path, kind: type[AnyJob], overrides: Sequence[str] = ()) -> AnyJob:
    """Read a job file, apply `key.path=value` overrides and validate. Raises ConfigError naming every bad field."""
    path = located(path)
    tree = _read_yaml(path, "job file")
    for override in overrides:
        _override(tree, override)
    folders = plugin_folders(path)
    for card in _overlay_cards(tree, path.parent):
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
        keys = _read_yaml(located(path), "file").keys()
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
    tree = _read_card(path, "card")
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
        added = dict.fromkeys(_relative_to_cwd(folder) for folder in folders)
        tree["plugin_dirs"] = [*plugin_dirs, *(folder for folder in added if folder not in plugin_dirs)]


def _refuse_plugins(tree: dict[str, Any], path: Path) -> None:
    """Raise ConfigError naming the cards whose code is not the package's own, where plug-ins are refused."""
    found = [*plugins.find_plugins(tree)] if plugins.are_refused() else []
    if found:
        lines = "\n".join(f"  {line}" for line in found)
        raise ConfigError(f"{path}: plug-ins are refused here (--no-plugins):\n{lines}")


def _read_yaml(path: Path, what: str) -> dict[str, Any]:
    try:
        tree = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror or error}") from error
    except _NO_YAML as error:
        raise ConfigError(f"{what} {path} is not YAML: {_without_snippet(error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{what} {path}: expected keys and values, found {type(tree).__name__}")
    return tree


def _without_snippet(error: Exception) -> str:
    """An error's message and place, without the quotation of the text, which may hold a credential."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else str(error)


def _override(tree: dict[str, Any], override: str) -> None:
    """Set one dotted key; a number in the path is a position in a list. The value is YAML."""
    dotted, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r}: write it as key.path=value")
    try:
        value = _parse(text)
    except _NO_YAML as error:
        raise ConfigError(f"override {dotted}: its value is not YAML: {_without_snippet(error)}") from None
    *parents, last = dotted.split(".")
    node: Any = tree
    for parent in parents:
        node = node[_position(node, parent, dotted)] if isinstance(node, list) else node.setdefault(parent, {})
        if not isinstance(node, dict | list):
            raise ConfigError(f"override {dotted}: {parent} is a single value, it has no fields")
    node[_position(node, last, dotted) if isinstance(node, list) else last] = value


def _position(items: list[Any], name: str, dotted: str) -> int:
    if not name.isdecimal() or int(name) >= len(items):
        raise ConfigError(f"override {dotted}: {name!r} is not a position in a list of {len(items)}")
    return int(name)


def _overlay_cards(tree: dict[str, Any], folder: Path) -> list[Path]:
    """Replace each `card: path` by the card's fields, which the job's keys beside it override → the cards' paths."""
    paths: list[Path] = []
    for section in ("teachers", "captioners", "rewriters", "scorers", "distillation.online_teachers"):
        parent, _, name = section.rpartition(".")
        holder = tree.get(parent) if parent else tree
        entries = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(entries, list):
            continue
        for index, entry in enumerate(entries):
            entries[index] = _overlaid(entry, folder, f"{section}.{index}", paths)
    if "teacher" in tree:
        tree["teacher"] = _overlaid(tree["teacher"], folder, "teacher", paths)
    return paths


def _overlaid(entry: Any, folder: Path, field: str, paths: list[Path]) -> Any:
    """One entry of a job, with its card's fields below its own; the card's path is added to `paths`."""
    if not isinstance(entry, dict):
        return entry
    own = {key: value for key, value in entry.items() if key != "card"}
    own |= {"options": _placed(own["options"], folder)} if "options" in own else {}
    if "card" not in entry:
        named = "name" not in own and isinstance(own.get("use"), str)
        return {"name": own["use"].rpartition(":")[2], **own} if named else own
    path = _find_card(str(entry["card"]), folder, f"{field}.card")
    paths.append(path)
    card = _read_card(path, f"card of {field}")
    for key in ("options", "connection"):
        defaults, chosen = card.get(key), own.get(key)
        if isinstance(defaults, dict) and isinstance(chosen, dict):
            own[key] = {**defaults, **chosen}
    return {**card, **own}


def _read_card(path: Path, what: str) -> dict[str, Any]:
    card = {"name": path.stem, **_read_yaml(path, what)}
    return card | ({"options": _placed(card["options"], path.parent)} if "options" in card else {})


def _placed(options: Any, folder: Path) -> Any:
    """The options of a file in `folder`. Paths of what lies there, and not in the working folder, begin with it."""
    if not isinstance(options, dict):
        return options
    return {
        name: [_from_here(item, folder) for item in value] if isinstance(value, list) else _from_here(value, folder)
        for name, value in options.items()
    }


def _from_here(value: Any, folder: Path) -> Any:
    is_path = isinstance(value, str) and "://" not in value and ("/" in value or Path(value).suffix)
    is_beside = is_path and _is_there(folder / value) and not _is_there(Path(value))
    return str(Path(_relative_to_cwd(folder), value)) if is_beside else value


def _find_card(card: str, folder: Path, field: str) -> Path:
    """A card's file, looked for in the working folder, the job file's folder and the one above. Raises ConfigError."""
    if card.startswith(PACKAGE_SCHEME):
        try:
            return located(card)
        except ConfigError as error:
            raise ConfigError(f"{field}: {error}") from None
    candidates = [Path(card), folder / card, folder.parent / card]
    for candidate in candidates:
        if _is_file(candidate):
            return candidate
    near = sorted({path.name for candidate in candidates for path in candidate.parent.glob("*.yaml")})
    raise ConfigError(f"{field}: no card at {card}{nearest(Path(card).name, near)}")


def _is_file(path: Path) -> bool:
    return _is_there(path) and path.is_file()


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long for any, or holds a null character
        return False


def _relative_to_cwd(folder: Path) -> str:
    """The folder relative to the working folder if it is in it: each node of a Ray job has its own working folder."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(folder.resolve())


def validate(kind: type[Model], tree: dict[str, Any], where: str) -> Model:
    """A tree as YAML gives it → the model. Raises ConfigError with a line for each problem; `where` heads them."""
    try:
        return _validated(kind, tree, where)
    except RecursionError:
        raise ConfigError(f"{where}: a value holds itself: an &anchor with its own *alias in it") from None


def _validated(kind: type[Model], tree: dict[str, Any], where: str) -> Model:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(kind, problem) for problem in error.errors()]
        raise ConfigError("\n".join([f"{where}:", *(f"  {line}" for line in lines)])) from None


def _explain(kind: type[BaseModel], problem: Any) -> str:
    """One pydantic problem as `field: what is wrong (value), and the nearest valid name`."""
    location = [str(part) for part in problem["loc"] if str(part) != "str" and not str(part).startswith("tuple[")]
    field = ".".join(location) or "job"
    if problem["type"] == "extra_forbidden":
        known = _fields_at(kind, location[:-1])
        return f"{field}: unknown key{nearest(location[-1], known) or '; known here: ' + ', '.join(known)}"
    if problem["type"] == "missing":
        return f"{field}: required, but missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "string_pattern_mismatch" and location[-1] in ("use", "tokenizer"):
        message = f"write it as module:Class{plugins.right_form(str(problem['input']))}"
    if "storage" in location or _holds_fields(problem["input"]):
        return f"{field}: {message}"
    return f"{field}: {message} (found {problem['input']!r})"


def _holds_fields(value: Any) -> bool:
    """Whether a value holds other fields: it is too long to show, and may hold credentials."""
    return isinstance(value, dict) or (isinstance(value, list | tuple) and any(map(_holds_fields, value)))


def _fields_at(kind: type[BaseModel], location: list[str]) -> list[str]:
    """The field names of the model that `location` leads to."""
    model: Any = kind
    for part in location:
        if part.isdigit():
            continue
        annotation = model.model_fields[part].annotation
        model = next(iter(_models_in(annotation)), None)
        if model is None:
            return []
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)
