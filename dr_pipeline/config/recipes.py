"""Files in packages, `package://module/file`, and this package's recipes, `package://jobs/…` and `package://teachers/…`.

The recipes are in the installed package, and beside it in the source tree.
"""

import importlib.util
import shutil
from collections.abc import Iterator
from filecmp import cmp
from pathlib import Path

from dr_pipeline.errors import ConfigError, nearest, reason

PACKAGE_SCHEME = "package://"
_RECIPES = ("jobs", "teachers")


def recipes_folder() -> Path:
    """The folder that holds `jobs` and `teachers`."""
    package = Path(__file__).parents[1]
    return package if (package / "jobs").is_dir() else package.parent


def recipes() -> list[str]:
    """The addresses of all recipes, `package://jobs/NAME.yaml` and `package://teachers/NAME.yaml`."""
    root = recipes_folder()
    paths = (path for name in _RECIPES for path in sorted((root / name).rglob("*.yaml")))
    return [f"{PACKAGE_SCHEME}{path.relative_to(root).as_posix()}" for path in paths]


def located(path: str | Path) -> Path:
    """The local path of a path or `package://…`. Nothing is imported.

    Raises ConfigError where there is no such package, or no such file in it.
    """
    uri = str(path)
    if "\0" in uri:
        raise ConfigError(f"{uri!r}: no name of a file has a null character")
    if not uri.startswith(PACKAGE_SCHEME):
        return Path(path)
    package, _, name = uri.removeprefix(PACKAGE_SCHEME).partition("/")
    folders = [*_places(package)]
    if not folders:
        raise ConfigError(f"{uri}: no package {package} is installed{nearest(package, _RECIPES)}")
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is None:
        names = [file.name for folder in folders for file in (folder / name).parent.glob("*.yaml")]
        raise ConfigError(f"{uri}: no such file{nearest(Path(name).name, names)}")
    return found


def plugin_folders(path: Path) -> list[Path]:
    """The folders of a job file's or card's plug-ins: its own and, for a recipe, the folder of all recipes."""
    root = recipes_folder()
    is_recipe = any(path.resolve().is_relative_to((root / name).resolve()) for name in _RECIPES)
    return [path.parent, root] if is_recipe else [path.parent]


def copy_recipes(folder: Path) -> tuple[list[Path], list[Path]]:
    """Copy the recipes to `folder/jobs` and `folder/teachers` → the new files, and those there that differ.

    Nothing is overwritten. Raises ConfigError where the folder cannot be written.
    """
    new, differing = [], []
    source = recipes_folder()
    try:
        for file in (file for name in _RECIPES for file in sorted((source / name).rglob("*"))):
            target = folder / file.relative_to(source)
            if not file.is_file() or "__pycache__" in file.parts:
                continue
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
                new.append(target)
            elif not cmp(file, target, shallow=False):
                differing.append(target)
    except OSError as error:
        raise ConfigError(f"{folder}: the recipes cannot be copied there: {reason(error)}") from error
    return new, differing


def _places(package: str) -> Iterator[Path]:
    """The folders of a package, whose `__init__` does not run."""
    top, *inner = package.split(".")
    if package in _RECIPES:
        yield recipes_folder() / package
        return
    try:
        spec = importlib.util.find_spec(top)
    except (ValueError, ImportError):
        return
    for place in (spec and spec.submodule_search_locations) or ():
        if (folder := Path(place, *inner)).is_dir():
            yield folder
