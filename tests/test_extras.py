"""Without any extra the demo works from end to end, and what needs an extra names it before any work."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dr_pipeline.config.extras import EXTRAS, require
from dr_pipeline.demo.held_out import write_held_out
from dr_pipeline.errors import ConfigError
from tests.demo_job import QUICKSTART, REPOSITORY, make_scenes, small
from tests.test_architecture import PATHS, imports, parse

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
BROUGHT = {"botocore": "s3fs", "markupsafe": "jinja2", "triton": "torch"}
"""What comes with another package."""

PLAIN = f"""
import sys
sys.modules |= dict.fromkeys({sorted(EXTRAS)!r})
from dr_pipeline.cli import main
for words in sys.argv[1].split("|"):
    print("code", main(words.split()))
"""
"""Runs command lines where no package of an extra can be imported."""


def plain(*commands: str, cwd: Path) -> tuple[str, str]:
    """What commands print, to the two streams, in a process without the packages of the extras."""
    words = [sys.executable, "-c", PLAIN, "|".join(commands)]
    ran = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=True)
    return ran.stdout, ran.stderr


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def test_every_package_that_is_imported_is_declared() -> None:
    declared, extras = names(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert canonicalize_name(package) in names(extras[extra]) - declared
    distributions = packages_distributions()
    found = {name.partition(".")[0] for path in PATHS.values() for name in imports(parse(path))}
    for package in found - sys.stdlib_module_names - {"dr_pipeline"} - {*EXTRAS}:
        bringing = BROUGHT.get(package, package)
        of_package = {canonicalize_name(name) for name in distributions[bringing]}
        assert of_package & declared or bringing in EXTRAS, f"{package} is imported, and no dependency"


def test_all_is_every_extra_that_the_package_names() -> None:
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert Requirement(everything).extras == {*EXTRAS.values()}
    page = (REPOSITORY / "docs/installing.md").read_text()
    told = set(re.findall(r"^\| `\[(\w+)\]`", page, re.MULTILINE))
    assert told == {*PROJECT["optional-dependencies"]}


@pytest.mark.slow
def test_the_demo_needs_no_extra(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "scenes", 2, 6)
    write_held_out(tmp_path / "outputs/held_out", 6)
    train = "data.shards=out data.workers=0 schedule.steps=2 schedule.batch_size=4 schedule.warmup_steps=1"
    out, log = plain(
        " ".join(["run", str(QUICKSTART), *small(scenes, "out")]),
        "verify out",
        "inspect out",
        f"train {REPOSITORY}/jobs/train_quickstart.yaml {train}",
        f"evaluate {REPOSITORY}/jobs/evaluate_quickstart.yaml",
        cwd=tmp_path,
    )
    assert re.findall("^code .*", out, re.MULTILINE) == ["code 0"] * 5, out + log
    for package in ("matplotlib", "tensorboard"):
        assert f"needs {package}, which is not installed: pip install 'dr-pipeline[report]'" in log
    assert (tmp_path / "outputs/student/log.jsonl").is_file()
    assert not (tmp_path / "outputs/student/curves.png").exists()


CARDS = {
    "backbone": ("transformers_backbone:TransformersBackbone", {"model": "folder"}, "transformers"),
    "dual": ("transformers:TransformersTeacher", {"model": "folder"}, "transformers"),
    "siglip": ("open_clip:OpenClipTeacher", {"model": "ViT-B-16-SigLIP", "weights": "random"}, "transformers"),
    "roberta": ("open_clip:OpenClipTeacher", {"model": "roberta-ViT-B-32", "weights": "random"}, "transformers"),
    "towers": ("onnx:OnnxImageTeacher", {"image_model": "x", "mean": [0, 0, 0], "std": [1, 1, 1]}, "onnx"),
}
"""Name → class, options, and the extra that it needs."""


def test_plan_and_check_teacher_name_the_extra(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "scenes", 1, 1)
    for name, (use, options, _) in CARDS.items():
        (tmp_path / f"{name}.yaml").write_text(f"use: dr_pipeline.models.{use}\noptions: {options}\nlogit_scale: 10\n")
    cards = "[" + ",".join(f"{{card:{tmp_path}/{name}.yaml}}" for name in CARDS).replace(":", ": ") + "]"
    job = tmp_path / "job.yaml"
    job.write_text(f"{{name: a, input: {{shards: {scenes}}}, output: {{path: out}}, teachers: {cards}}}")
    out, log = plain("plan job.yaml workers.engine=local", "check-teacher dual.yaml", cwd=tmp_path)
    assert re.findall("^code .*", out, re.MULTILINE) == ["code 2", "code 1"], out + log
    for name, (_, _, extra) in CARDS.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"refused  card {name}: ")]
        assert line.endswith(f"which is not installed: pip install 'dr-pipeline[{extra}]'"), line
    assert "problem 1" in out


def test_a_package_of_no_extra_is_named_alone() -> None:
    with pytest.raises(ConfigError, match=r"^a card needs absent_package, which is not installed$"):
        require("absent_package", "a card")
