"""A plug-in is an import path to a plain class: `module:Class`, installed or in a plain Python file."""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dr_pipeline.errors import ConfigError, nearest


def load_class(path: str, plugin_dirs: Sequence[str] = ()) -> Any:
    """The class (or function) at `module:Name`. `plugin_dirs` are looked in after everything that is installed.

    Raises ConfigError that names the missing module or attribute and the nearest one there is.
    """
    for folder in (str(Path(folder).resolve()) for folder in plugin_dirs):
        if folder not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()
    module_name, _, class_name = path.partition(":")
    module = _import(module_name, path)
    try:
        return getattr(module, class_name)
    except AttributeError:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"{path}: {module_name} has no {class_name}{nearest(class_name, public)}") from None


def _import(name: str, path: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name != missing and not name.startswith(missing + "."):
            raise ConfigError(f"{path}: {name} imports {missing}, which is not installed") from error
        parent = missing.rpartition(".")[0]
        folders = list(importlib.import_module(parent).__path__) if parent else [entry or "." for entry in sys.path]
        known = (f"{parent}.{module.name}".lstrip(".") for module in pkgutil.iter_modules(folders))
        raise ConfigError(
            f"{path}: no module {missing}{nearest(missing, known)} "
            "(a plug-in is a Python file beside the job file or in one of plugin_dirs, or an installed package)"
        ) from None
    except Exception as error:
        raise ConfigError(f"{path}: importing {name} failed: {type(error).__name__}: {error}") from error
