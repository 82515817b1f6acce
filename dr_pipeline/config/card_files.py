"""Cards in job files: a card's fields below a job's own, and the places of cards and of what their options name."""

from pathlib import Path
from typing import Any

from dr_pipeline.config.recipes import PACKAGE_SCHEME, located
from dr_pipeline.config.yaml_file import read_yaml
from dr_pipeline.errors import ConfigError, nearest


def overlay_cards(tree: dict[str, Any], folder: Path) -> list[Path]:
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
    if not isinstance(entry["card"], str):
        raise ConfigError(f"{field}.card: expected the path of a card's file")
    path = _find_card(entry["card"], folder, f"{field}.card")
    paths.append(path)
    card = read_card(path, f"card of {field}")
    for key in ("options", "connection"):
        defaults, chosen = card.get(key), own.get(key)
        if isinstance(defaults, dict) and isinstance(chosen, dict):
            own[key] = {**defaults, **chosen}
    return {**card, **own}


def read_card(path: Path, what: str) -> dict[str, Any]:
    """The fields of a card's file, with a name; `what` it is, for errors. Raises ConfigError."""
    card = {"name": path.stem, **read_yaml(path, what)}
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
    return str(Path(relative_to_cwd(folder), value)) if is_beside else value


def _find_card(card: str, folder: Path, field: str) -> Path:
    """A card's file, looked for in the working folder, the job file's folder and the one above. Raises ConfigError."""
    if card.startswith(PACKAGE_SCHEME):
        try:
            return located(card)
        except ConfigError as error:
            raise ConfigError(f"{field}: {error}") from None
    candidates = [Path(card), folder / card, folder.parent / card]
    for candidate in candidates:
        if _is_there(candidate) and candidate.is_file():
            return candidate
    near = sorted({path.name for candidate in candidates for path in candidate.parent.glob("*.yaml")})
    raise ConfigError(f"{field}: no card at {card}{nearest(Path(card).name, near)}")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long for any, or holds a null character
        return False


def relative_to_cwd(folder: Path) -> str:
    """The folder relative to the working folder if it is in it: each node of a Ray job has its own working folder."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(folder.resolve())
