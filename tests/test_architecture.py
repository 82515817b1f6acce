"""The rules of the design that a machine can hold: who imports whom."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dr_pipeline.shards import paths

PACKAGE = Path(__file__).parent.parent / "dr_pipeline"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOOR = {
    **dict.fromkeys(
        (
            "config",
            "ending",
            "errors",
            "jobfile",
            "plugins",
            "recipes",
            "records",
            "references",
            "shown",
            "sources",
            "__init__",
        ),
        0,
    ),
    "shards.codecs": 0,  # the config names what it can write by them, and they know nothing of the package
    **dict.fromkeys(("shards", "views"), 1),
    **dict.fromkeys(("networks", "reinforce", "models", "report", "student"), 2),
    "runners": 3,
    **dict.fromkeys(("demo", "testing", "cli"), 4),
    "__main__": 5,
}
NO_MODELS = {"models", "reinforce", "runners"}
ON_DEVICE = PACKAGE / "views" / "device"
"""Renders where the models are, so that torch is there."""


def floor(module: str) -> int:
    """Of a module by its dotted name below the package."""
    return FLOOR.get(".".join(module.split(".")[:2]), FLOOR[module.split(".")[0]])


def part(path: Path) -> str:
    """The first name below the package: a subpackage or a module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in the tree, `from package import module` as `package.module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(tree: ast.Module) -> ast.Module:
    """The tree without what runs later, or only for type checkers."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            typing_only = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return None if typing_only else self.generic_visit(node)

    return Strip().visit(tree)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    ours = part(path)
    own_floor = floor(".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    for name in imports(parse(path)):
        if not name.startswith("dr_pipeline."):
            continue
        theirs = name.split(".")[1]
        assert floor(name.removeprefix("dr_pipeline.")) <= own_floor, f"{path} imports {name}, from a floor above"
        assert not (ours in {"student", "report"} and theirs in NO_MODELS), f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_ray_and_torch_stay_on_their_floors(path: Path) -> None:
    tree = parse(path)
    if part(path) != "runners":
        assert not {name for name in imports(tree) if name.split(".")[0] == "ray"}, f"{path} imports ray"
    if (FLOOR[part(path)] <= 1 and ON_DEVICE not in path.parents) or part(path) == "cli":
        heavy = {
            name for name in imports(at_import(tree)) if name.split(".")[0] in {"torch", "torchvision", "open_clip"}
        }
        assert not heavy, f"{path} imports {heavy} when it is imported"


def test_light_modules_load_neither_torch_nor_ray() -> None:
    light = ["cli", "__init__", "config", "jobfile", "records", "errors", "report.preview", "report.verify"]
    light += [f"{path.parent.name}.{path.stem}" for path in MODULES if path.parent.name in {"shards", "views"}]
    code = "import sys\n" + "".join(f"import dr_pipeline.{name}\n" for name in light)
    code += "print(sorted({'torch', 'ray', 'open_clip', 'transformers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_driver_of_a_run_on_ray_does_not_load_torch() -> None:
    code = "import sys, dr_pipeline.runners.on_ray; print(sorted({'torch', 'open_clip'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_where_an_output_s_files_lie_is_spelled_once() -> None:
    files = {value for name, value in vars(paths).items() if name.isupper()}
    ours = PACKAGE / "shards" / "paths.py"
    for path in [module for module in MODULES if module != ours]:
        texts = {node.value for node in ast.walk(parse(path)) if isinstance(node, ast.Constant)}
        spelled = {text for text in texts if isinstance(text, str) and text.removeprefix("/").rstrip("/") in files}
        assert not spelled, f"{path} spells {spelled}, which dr_pipeline.shards.paths has"
