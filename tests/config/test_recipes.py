"""The recipes come with the wheel: they run from an empty folder, and `init` copies them."""

import sys
from pathlib import Path

import pytest

from dr_pipeline.cli import main
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load
from dr_pipeline.config.recipes import located
from dr_pipeline.errors import ConfigError

ROOT = Path(__file__).parents[2]
RECIPES = {
    str(path.relative_to(ROOT))
    for folder in ("jobs", "teachers")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".yaml", ".py", ".md")
}


def test_init_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["init", str(tmp_path)]) == 0
    assert f"{len(RECIPES)} recipes copied" in capsys.readouterr().out
    (tmp_path / "jobs/quickstart.yaml").write_text("name: mine\n")
    (tmp_path / "teachers/README.md").unlink()
    assert main(["init", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "1 recipe copied" in shown
    assert f"{tmp_path}/jobs/quickstart.yaml differs from the package's, and was left as it is" in shown
    assert (tmp_path / "jobs/quickstart.yaml").read_text() == "name: mine\n"
    assert main(["init", str(tmp_path)]) == 0
    assert f"no recipe copied: {tmp_path} has all of them, in jobs/ and teachers/" in capsys.readouterr().out
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
