"""The rules of the design that a machine can hold: who imports whom, and what is spelled once."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from dr_pipeline.dataset import paths

PACKAGE = Path(__file__).parent.parent / "dr_pipeline"
PATHS = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""Modules by their dotted names below the package."""

ROOMS = [
    {"redaction", "words", "errors", "codecs", "config"},
    {"storage"},
    {"views"},
    {"dataset"},
    {"networks", "preparation"},
    {"models", "evaluation", "training", "tuning"},
    {"reinforce"},
    {"report"},
    {"runners"},
    {"verification", "doctor"},
    {"demo", "cli", "__init__"},
    {"__main__"},
]
"""From the lowest floor to the highest."""
FLOORS = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}

FOR_TRAINING = {"dataset", "networks", "evaluation", "training", "tuning"}
WITHOUT = {"models", "reinforce", "runners"}
"""What a student does not need on its machine."""
LIGHT = ROOMS[0] | {"storage", "views", "dataset", "preparation", "cli", "__init__"}
"""Rooms that load neither torch nor open_clip when they are imported."""
ON_DEVICE = "views.device"
"""Renders where the models are, so that torch is there."""

CLIENTS = {"fsspec", "s3fs", "botocore", "aiobotocore", "aiohttp"}
"""Of storages: only storage/ knows them and what they raise."""
OTHERS_CLIENTS = {
    "models.http_client": {"aiohttp"},  # asks a server which is no storage
    "report.serve.gate": {"aiohttp"},  # is a server's
    "report.serve.server": {"aiohttp"},
}
"""The modules that use one of them for something else."""
WITHOUT_CATCH_ALL = {"storage", "dataset", "preparation", "training", "evaluation", "verification", "runners"}
CATCH_ALL = {
    "storage.errors": "each storage's client has errors of its own",
    "dataset.layout": "isal, zipfile, zlib, NumPy's tokenizer and torch each have errors of their own",
    "training.checkpoint": "torch raises what it likes about a damaged file",
    "training.network": "each architecture refuses to checkpoint gradients with an error of its own",
}
"""The modules of these rooms that may have one `except Exception` which ends the error, and why."""


def room_of(module: str) -> str:
    return module.partition(".")[0]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in the tree, `from package import module` as `package.module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.AST) -> set[str]:
    """The package's modules among them."""
    names = (name.removeprefix("dr_pipeline.") for name in imports(tree) if name.startswith("dr_pipeline."))
    return {name if name in PATHS else name.rpartition(".")[0] for name in names}


def at_import(tree: ast.Module) -> ast.Module:
    """The tree without what runs later, or only for type checkers."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            typing_only = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return None if typing_only else self.generic_visit(node)

    return Strip().visit(tree)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of a circle; none where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("module", PATHS)
def test_imports_point_down(module: str) -> None:
    ours = room_of(module)
    for name in own_imports(parse(PATHS[module])):
        theirs = room_of(name)
        assert FLOORS[theirs] <= FLOORS[ours], f"{module} imports {name}, from a floor above"
        assert not (ours in FOR_TRAINING and theirs in WITHOUT), f"{module} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: own_imports(parse(path)) - {module} for module, path in PATHS.items()}
    assert circle(graph) == []


def test_no_rooms_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, path in PATHS.items():
        own = room_of(module)
        graph.setdefault(own, set()).update({room_of(name) for name in own_imports(parse(path))} - {own})
    assert circle(graph) == []


@pytest.mark.parametrize("module", PATHS)
def test_ray_and_torch_stay_in_their_rooms(module: str) -> None:
    tree = parse(PATHS[module])
    if room_of(module) != "runners":
        assert not {name for name in imports(tree) if room_of(name) == "ray"}, f"{module} imports ray"
    if room_of(module) in LIGHT and not module.startswith(ON_DEVICE):
        heavy = {name for name in imports(at_import(tree)) if room_of(name) in {"torch", "torchvision", "open_clip"}}
        assert not heavy, f"{module} imports {heavy} when it is imported"


@pytest.mark.parametrize("module", PATHS)
def test_only_storage_knows_its_clients_and_what_they_raise(module: str) -> None:
    tree = parse(PATHS[module])
    if room_of(module) != "storage":
        clients = {room_of(name) for name in imports(tree)} & CLIENTS
        assert clients <= OTHERS_CLIENTS.get(module, set()), f"{module} imports a storage's client"
        assert "LocalFileSystem" not in PATHS[module].read_text(encoding="utf-8")
    if room_of(module) in WITHOUT_CATCH_ALL:
        assert sum(map(ends_every_error, ast.walk(tree))) == (module in CATCH_ALL), f"{module} has `except Exception`"


def ends_every_error(node: ast.AST) -> bool:
    """Whether a node is an `except Exception`, or an `except:`, that does not raise the error again as it is."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    is_broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})
    return is_broad and not any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))


def loaded_by(code: str, heavy: set[str]) -> str:
    """Which of the heavy packages a fresh interpreter has after the code."""
    code += f"\nimport sys\nprint(sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() + done.stderr


def test_light_modules_load_neither_torch_nor_ray() -> None:
    light = [name for name in PATHS if room_of(name) in LIGHT and not name.startswith(ON_DEVICE) and name != "__init__"]
    code = "\n".join(f"import dr_pipeline.{name}" for name in [*light, "report.preview", "verification.verify"])
    assert loaded_by(code, {"torch", "ray", "open_clip", "transformers"}) == "[]"


def test_the_driver_of_a_run_on_ray_does_not_load_torch() -> None:
    assert loaded_by("import dr_pipeline.runners.on_ray", {"torch", "open_clip"}) == "[]"


def test_the_status_of_a_dataset_does_not_load_torch() -> None:
    """It is asked for again and again, and torch takes seconds to import."""
    asks = "print(CliRunner().invoke(status, ['nowhere']).exception)"
    code = f"from click.testing import CliRunner\nfrom dr_pipeline.cli.status import status\n{asks}"
    assert loaded_by(code, {"torch"}) == "None\n[]"


def test_without_triton_everything_but_kernels_can_be_imported() -> None:
    """torch for CPUs comes without it."""
    kernels = {name for name, path in PATHS.items() if "triton" in set(imports(parse(path)))}
    assert kernels
    modules = [f"import dr_pipeline.{name}" for name in PATHS if name not in {*kernels, "__init__", "__main__"}]
    code = "\n".join(["import sys", "sys.modules['triton'] = None", *modules])
    assert loaded_by(code, set()).startswith("[]")


def test_no_two_classes_have_one_name() -> None:
    modules: dict[str, list[str]] = {}
    for module, path in PATHS.items():
        for node in parse(path).body:
            if isinstance(node, ast.ClassDef):
                modules.setdefault(node.name, []).append(module)
    assert {name: found for name, found in modules.items() if len(found) > 1} == {}


def test_where_an_output_s_files_lie_is_spelled_once() -> None:
    files = {value for name, value in vars(paths).items() if name.isupper()}
    for module, path in PATHS.items():
        texts = {node.value for node in ast.walk(parse(path)) if isinstance(node, ast.Constant)}
        spelled = {text for text in texts if isinstance(text, str) and text.removeprefix("/").rstrip("/") in files}
        assert module == "dataset.paths" or not spelled, f"{module} spells {spelled}, which dataset.paths has"


def test_tars_are_read_and_written_as_samples_in_one_place() -> None:
    through = {"dr_pipeline.dataset.tar.read_tar", "dr_pipeline.dataset.tar.TarWriter"}
    users = {module for module, path in PATHS.items() if through & set(imports(parse(path)))}
    assert users == {"dataset.shard_io"}
