"""The version of a plug-in: a digest of its source and of the modules it imports, or an installed package's version.

Nothing is imported: this process may lack what the plug-in needs.
"""

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

_OURS = __name__.partition(".")[0]
_INSTALLED = {"site-packages", "dist-packages"}


def source_version(path: str, plugin_dirs: Sequence[str] = ()) -> str | None:
    """The version of the code at `module:Class`; for an installed package `name version`, else a SHA-256.

    The SHA-256 is of the module, the packages around it, and what these import from the same folders or `plugin_dirs`.
    None for classes of this package and of Python, and where there is no such module.
    """
    module = path.partition(":")[0]
    top = module.partition(".")[0]
    if top == _OURS or top in sys.stdlib_module_names:
        return None
    folders = [Path(folder).resolve() for folder in plugin_dirs]
    roots = _folders_of(top, folders)
    if any(_INSTALLED & {*root.parts} for root in roots):
        names = importlib.metadata.packages_distributions().get(top)
        if names:
            return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted({*names}))
    files = _sources(module, [*roots, *folders])
    if module not in files:
        return None
    contents = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _folders_of(top: str, plugin_dirs: list[Path]) -> list[Path]:
    """The folders that hold a top-level module or package; installed ones come before the plug-in folders."""
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that was made by hand
        return []
    spec = spec or PathFinder.find_spec(top, [str(folder) for folder in plugin_dirs])
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(location).resolve().parent for location in spec.submodule_search_locations]
    return [Path(spec.origin).resolve().parent] if spec.origin else []


def _sources(module: str, roots: list[Path]) -> dict[str, Path]:
    """The files, by module name, of a module, of the packages around it, and of all that these import from `roots`."""
    found: dict[str, Path] = {}
    left = [module]
    while left:
        parts = left.pop().split(".")
        if parts[0] == _OURS:
            continue
        for end in range(1, len(parts) + 1):
            name, places = ".".join(parts[:end]), [root.joinpath(*parts[:end]) for root in roots]
            candidates = (file for place in places for file in (place / "__init__.py", place.with_suffix(".py")))
            file = None if name in found else next(filter(Path.is_file, candidates), None)
            if file:
                found[name] = file
                left += _imported(name, file)
    return found


def _imported(name: str, file: Path) -> Iterator[str]:
    """Every module that a source file may import, anywhere in it."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # importing it will raise the error
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
            outer = package[: len(package) - node.level + 1] if node.level else []
            base = [*outer, *(node.module or "").split(".")] if node.module else outer
            yield ".".join(base)
            yield from (".".join([*base, alias.name]) for alias in node.names)
