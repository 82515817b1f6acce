"""Plug-ins: plain classes by their import path `module:Class`, of an installed package or a Python file.

A job file runs code through these paths alone, so that it is data where plug-ins are refused.
"""

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dr_pipeline.config.extras import how_to_install
from dr_pipeline.config.recipes import PACKAGE_SCHEME
from dr_pipeline.errors import ConfigError, nearest

_OURS = __name__.partition(".")[0]
NAMING_CODE = ("use", "tokenizer", "teacher")
"""Fields and options whose values are `module:Class`."""
_are_refused = False


@contextmanager
def refused() -> Iterator[None]:
    """Load only this package's classes in the block, and leave `sys.path` unchanged."""
    global _are_refused
    _are_refused = True
    try:
        yield
    finally:
        _are_refused = False


def are_refused() -> bool:
    """Whether plug-ins are refused now."""
    return _are_refused


def find_plugins(tree: Any, name: str = "job") -> Iterator[str]:
    """The values of a job that would run other code than this package's, as `card: field: value`."""
    if isinstance(tree, dict):
        name = str(tree.get("name", name))
        for key, value in tree.items():
            if key in NAMING_CODE and isinstance(value, str) and not value.startswith(f"{_OURS}."):
                yield f"{name}: {key}: {value}"
            else:
                yield from find_plugins(value, name)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from find_plugins(value, name)
    elif isinstance(tree, str) and tree.startswith(PACKAGE_SCHEME) and not tree.startswith(f"{PACKAGE_SCHEME}{_OURS}"):
        yield f"{name}: {tree}"  # looking for a package's files imports it


def load_class(path: str, plugin_dirs: Sequence[str] = ()) -> Any:
    """The class or function at `module:Name`. `plugin_dirs` are searched after all that is installed.

    Raises ConfigError naming the missing module or attribute, and the nearest that exists.
    """
    if _are_refused:
        plugin_dirs = ()
        if not path.startswith(f"{_OURS}."):
            raise ConfigError(f"{path} is a plug-in, and plug-ins are refused here (--no-plugins)")
    for folder in (str(Path(folder).resolve()) for folder in plugin_dirs):
        if folder not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()
    module_name, _, class_name = path.partition(":")
    module = _import(module_name, path)
    try:
        found = getattr(module, class_name)
        if _are_refused and not getattr(found, "__module__", "").startswith(f"{_OURS}."):
            raise ConfigError(f"{path} is not a class of this package, and plug-ins are refused here (--no-plugins)")
        return found
    except AttributeError:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"{path}: {module_name} has no {class_name}{nearest(class_name, public)}") from None


def right_form(path: str) -> str:
    """Help for a malformed path: `; did you mean module:Class?` for a file's path or a dotted one, else an example."""
    file = re.fullmatch(r"(?:\./)?([\w./-]+?)\.py:(\w+)(?:\(\))?", path)
    dotted = re.fullmatch(r"([\w.]+)\.([A-Z]\w*)", path)
    if file:
        return f"; did you mean {file[1].replace('/', '.').lstrip('.')}:{file[2]}?"
    return (
        f"; did you mean {dotted[1]}:{dotted[2]}?" if dotted else ", such as my_lab.siglip:SigLip of my_lab/siglip.py"
    )


def _import(name: str, path: str) -> Any:
    if name.endswith(".py"):
        raise ConfigError(f"{path}: write a module's name, not its file's{right_form(path)}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name != missing and not name.startswith(missing + "."):
            raise ConfigError(f"{path}: {name} imports {how_to_install(missing)}") from error
        parent = missing.rpartition(".")[0]
        folders = getattr(sys.modules.get(parent), "__path__", []) if parent else [entry or "." for entry in sys.path]
        beside = [f"{parent}.{module.name}".lstrip(".") for module in pkgutil.iter_modules([*folders])]
        raise ConfigError(
            f"{path}: no module {missing}{nearest(missing, beside)} "
            "(a plug-in is a Python file beside its card or the job file, in one of plugin_dirs, or a package)"
        ) from None
    except Exception as error:
        raise ConfigError(f"{path}: importing {name} failed: {type(error).__name__}: {error}") from error
