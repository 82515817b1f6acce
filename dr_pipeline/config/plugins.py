"""A plug-in is an import path to a plain class: `module:Class`, installed or in a plain Python file.

A job file runs code only through these paths, so `refused` makes it data: what it names is the package's own then.
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

from dr_pipeline.config.recipes import PACKAGE_SCHEME
from dr_pipeline.errors import ConfigError, nearest

_OURS = __name__.partition(".")[0]
_NAMING_CODE = ("use", "tokenizer")
_are_refused = False


@contextmanager
def refused() -> Iterator[None]:
    """In this block nothing but the package's own classes is loaded in this process, and `sys.path` stays as it is."""
    global _are_refused
    _are_refused = True
    try:
        yield
    finally:
        _are_refused = False


def are_refused() -> bool:
    """Whether we are in such a block."""
    return _are_refused


def find_plugins(tree: Any, name: str = "job") -> Iterator[str]:
    """What in a job's tree would run foreign code, as `card: field: value`."""
    if isinstance(tree, dict):
        name = str(tree.get("name", name))
        for key, value in tree.items():
            if key in _NAMING_CODE and isinstance(value, str) and not value.startswith(f"{_OURS}."):
                yield f"{name}: {key}: {value}"
            else:
                yield from find_plugins(value, name)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from find_plugins(value, name)
    elif isinstance(tree, str) and tree.startswith(PACKAGE_SCHEME) and not tree.startswith(f"{PACKAGE_SCHEME}{_OURS}"):
        yield f"{name}: {tree}"  # looking for a package's files imports it


def load_class(path: str, plugin_dirs: Sequence[str] = ()) -> Any:
    """The class (or function) at `module:Name`. `plugin_dirs` are looked in after everything that is installed.

    Raises ConfigError that names the missing module or attribute and the nearest one there is.
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
    """`; did you mean module:Class?` for what was written as a file's path or with a dot; else an example."""
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
            raise ConfigError(f"{path}: {name} imports {missing}, which is not installed") from error
        raise ConfigError(
            f"{path}: no module {missing}{nearest(missing, _neighbours(missing))} "
            "(a plug-in is a Python file beside the job file or in one of plugin_dirs, or an installed package)"
        ) from None
    except Exception as error:
        raise ConfigError(f"{path}: importing {name} failed: {type(error).__name__}: {error}") from error


def _neighbours(name: str) -> list[str]:
    """The modules that lie where this one was looked for; none below a module that is no package."""
    parent = name.rpartition(".")[0]
    folders = getattr(sys.modules.get(parent), "__path__", []) if parent else [entry or "." for entry in sys.path]
    return [f"{parent}.{module.name}".lstrip(".") for module in pkgutil.iter_modules([*folders])]
