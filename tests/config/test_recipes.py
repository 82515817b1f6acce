"""The recipes come with the wheel: they run from an empty folder, and `init` copies them."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from dr_pipeline.cli import main
from dr_pipeline.config import recipes
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load
from dr_pipeline.config.recipes import located
from dr_pipeline.errors import ConfigError
from tests.conftest import make_sample_members, write_tar

ROOT = Path(__file__).parents[2]
SOURCES = ("dr_pipeline", "jobs", "teachers", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md")
RECIPES = {
    str(path.relative_to(ROOT))
    for folder in ("jobs", "teachers")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".yaml", ".py", ".md")
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel of this tree is installed, without what it depends on."""
    tree, wheels = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheels")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", f"--wheel-dir={wheels}", str(tree)]
    subprocess.run([*pip, *build], check=True, cwd=tree)
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        held = {name.removeprefix("dr_pipeline/") for name in wheel.namelist()}
    assert held >= RECIPES
    assert not [name for name in held if name.startswith(("jobs", "teachers")) and "__pycache__" in name]
    install = ["install", "--no-deps", "--no-index", "--no-compile", f"--target={target}"]
    subprocess.run([*pip, *install, str(next(wheels.glob("*.whl")))], check=True)
    return target


@pytest.mark.slow
def test_an_installed_package_brings_its_recipes(installed: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "in/0.tar", make_sample_members("a"))
    overrides = ["input.shards=in", "augmentation.num_views=2", "captioners.0.num_captions=1", "workers.engine=local"]
    commands = [
        ["init", "mine"],
        ["run", "package://jobs/quickstart.yaml", *overrides],
        ["check-teacher", "package://teachers/examples/mirror.yaml"],
    ]
    code = f"import sys\nfrom dr_pipeline.cli import main\nsys.exit(any([main(words) for words in {commands!r}]))"
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"copied from {installed}/dr_pipeline to mine" in ran.stdout
    assert "mirror.yaml: ready" in ran.stdout
    assert (tmp_path / "outputs/quickstart/0.tar").is_file()
    files = {str(path.relative_to(tmp_path / "mine")) for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert files == RECIPES
    assert os.access(tmp_path / "mine/jobs/quickstart.yaml", os.X_OK)


def test_init_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["init", str(tmp_path)]) == 0
    assert f"{len(RECIPES)} recipes copied" in capsys.readouterr().out
    (tmp_path / "jobs/quickstart.yaml").write_text("name: mine\n")
    (tmp_path / "teachers/README.md").unlink()
    assert main(["init", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "1 recipes copied" in shown
    assert f"{tmp_path}/jobs/quickstart.yaml differs from the package's, and was left as it is" in shown
    assert (tmp_path / "jobs/quickstart.yaml").read_text() == "name: mine\n"
    assert main(["init", str(tmp_path / "jobs/quickstart.yaml")]) == 2
    assert "the recipes cannot be copied there" in capsys.readouterr().err


def test_jobs_and_cards_are_found_by_package_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = load("package://jobs/reinforce_dfn.yaml", Job)
    assert [card.name for card in job.teachers] == ["dfn2b_clip_vit_l_14", "dfn2b_clip_vit_l_14_s39b"]
    (tmp_path / "job.yaml").write_text(
        "{name: n, input: {shards: in}, output: {path: out}, augmentation: {random_resized_crop: {size: 96}},"
        " teachers: [{card: package://teachers/examples/mirror.yaml}]}"
    )
    job = load("job.yaml", Job)
    assert job.teachers[0].name == "mirror"
    assert any(Path(folder, "teachers/examples/mirror.py").is_file() for folder in job.plugin_dirs)
    for package in ("dr_pipeline.demo/cards/scene_coca.yaml", "yaml/__init__.py"):
        assert located(f"package://{package}").is_file()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("package://jobs/quikstart.yaml", "no such file; did you mean quickstart.yaml?"),
        ("package://jops/quickstart.yaml", "no package jops is installed; did you mean jobs?"),
        ("package://jobs", "no such file"),
        ("package:///x", "no package  is installed"),
        ("package://os/x", "no package os is installed"),
    ],
)
def test_what_no_package_holds_is_named(uri: str, said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ConfigError) as caught:
        located(uri)
    assert str(caught.value).startswith(f"{uri}: {said}")
    for verb in ("run", "plan", "train", "evaluate", "tune-logit-scale", "check-teacher"):
        assert main([verb, uri]) == 2
        assert said in capsys.readouterr().err


def test_looking_for_a_file_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package_that_runs").mkdir()
    (tmp_path / "package_that_runs/__init__.py").write_text("raise SystemExit('it ran')")
    (tmp_path / "package_that_runs/card.yaml").write_text("a: 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert located("package://package_that_runs/card.yaml").is_file()
    assert "package_that_runs" not in sys.modules


def test_the_source_archive_holds_what_the_wheel_is_built_from(tmp_path: Path) -> None:
    for name in SOURCES:
        os.symlink(ROOT / name, tmp_path / name)
    command = [sys.executable, "setup.py", "--quiet", "sdist", f"--dist-dir={tmp_path / 'dist'}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    with tarfile.open(next((tmp_path / "dist").glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held >= RECIPES | {"setup.py", "pyproject.toml"}
    assert recipes.recipes_folder() == ROOT
