"""What `make package` builds: the wheel has the package and its recipes and runs alone; the archive builds it again."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from email import message_from_string
from pathlib import Path

import pytest
import yaml

from tests.test_project import PROJECT, ROOT

Folder = Callable[[str], Path]
BESIDE = ("jobs", "teachers")
"""What lies beside the package in the tree, and in it where it is installed."""


def tracked(*folders: str) -> set[str]:
    """The files of the tree below these folders, all without any; what git does not know is none of them."""
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def build(kind: str, tree: Path, folder: Path) -> Path:
    """The wheel or sdist of a tree, built by what is installed here: no network is asked."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return tmp_path_factory.mktemp


@pytest.fixture(scope="module")
def archive(folder: Folder) -> Path:
    """The sdist of a clean checkout, beside which lies what nobody wants in it."""
    tree = folder("tree")
    for name in tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    for name in ("jobs/.hidden", "teachers/__pycache__/x.pyc", "dr_pipeline/__pycache__/x.pyc", "outputs/0.tar"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    return build("sdist", tree, folder("sdist"))


@pytest.fixture(scope="module")
def wheel(archive: Path, folder: Folder) -> Path:
    """The wheel, built from the archive as `python -m build` does."""
    unpacked = folder("unpacked")
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    return build("wheel", next(unpacked.iterdir()), folder("wheel"))


def test_the_archive_holds_what_the_wheel_is_built_from_and_nothing_else(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        held = {member.name.partition("/")[2] for member in tar.getmembers() if member.isfile()}
    made = {name for name in held if name.startswith("dr_pipeline.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    told = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "constraints.txt"}
    recipes = {name for name in tracked(*BESIDE) if "/." not in name}
    built_by = {"MANIFEST.in", "pyproject.toml", "setup.py"}
    assert held - made == told | recipes | tracked("dr_pipeline") | built_by


def test_the_wheel_holds_the_package_its_recipes_and_their_description(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
        (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        told = message_from_string(file.read(name).decode())
    assert held == tracked("dr_pipeline") | {f"dr_pipeline/{name}" for name in tracked(*BESIDE)}
    assert (told["Name"], told["Version"]) == (PROJECT["name"], PROJECT["version"])
    assert (told["License-Expression"], told["License-File"]) == ("Apache-2.0", "LICENSE")
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_payload().strip() == (ROOT / "README.md").read_text().strip()


def test_it_says_which_pythons_it_is_tested_with() -> None:
    tested = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    told = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert told == tested["python"]
    assert PROJECT["requires-python"] == f">={told[0]}"


@pytest.mark.slow
def test_the_wheel_alone_runs_the_demo(wheel: Path, folder: Folder, tmp_path: Path) -> None:
    target = folder("target")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(target)
    in_small = "augmentation.num_views=2 captioners.0.num_captions=1 workers.engine=local"
    commands = [
        "init mine",
        f"run package://jobs/quickstart.yaml {in_small}",
        "verify outputs/quickstart",
        "inspect outputs/quickstart",
        "look outputs/quickstart",
        "check-teacher package://teachers/examples/mirror.yaml",
    ]
    code = "import sys\nfrom dr_pipeline.cli import main\nfrom dr_pipeline.demo.scenes import write_scenes\n"
    code += "write_scenes('outputs/scenes', 2, 8, seed=0)\nsys.exit(any([main(line.split()) for line in sys.argv[1:]]))"
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, *commands]
    ran = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"copied from {target}/dr_pipeline to mine" in ran.stdout
    assert "mirror.yaml: ready" in ran.stdout
    mine = {str(path.relative_to(tmp_path / "mine")) for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert mine == tracked(*BESIDE)
