"""Every block of the pages that can run on any machine is run, page by page, in order, in a clean folder.

The folder is as `make demo` leaves it, in small: jobs and teachers as in the checkout (training jobs with few steps),
and sixteen scenes, reinforced. A block that cannot run here has a comment in front that says why:

    <!-- not run: needs a cluster -->
"""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dr_pipeline.cli import main
from dr_pipeline.demo.held_out import write_held_out
from dr_pipeline.demo.scenes import write_scenes
from tests.conftest import merged
from tests.pages import PAGES, ROOT, blocks, named

SMALL: dict[str, dict[str, Any]] = {
    "train_quickstart.yaml": {
        "data": {"workers": 0},
        "schedule": {"steps": 4, "batch_size": 4, "warmup_steps": 1},
        "evaluation": {"every": None},
        "run": {"log_every": 1, "checkpoint_every": 2},
    },
    "tune_logit_scale_quickstart.yaml": {
        "overrides": ["schedule.steps=2", "schedule.warmup_steps=1", "run.keep_checkpoints=1"],
        "logit_scales": [10, 20],
    },
}
PROGRAMS = ("dr-pipeline", "python", "torchrun", "ray", "make", "pip", "docker", "kubectl", "$ ")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves, in small."""
    folder = tmp_path_factory.mktemp("demo") / "checkout"
    shutil.copytree(ROOT / "jobs", folder / "jobs")
    shutil.copytree(ROOT / "teachers", folder / "teachers")
    for name, changes in SMALL.items():
        path = folder / "jobs" / name
        first, _, rest = path.read_text().partition("\n")
        path.write_text(f"{first}\n{yaml.safe_dump(merged(yaml.safe_load(rest), changes))}")
    write_scenes(folder / "outputs/scenes", num_shards=4, samples_per_shard=4, seed=0)
    write_held_out(folder / "outputs/held_out", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "jobs/quickstart.yaml", "workers.engine=local"]) == 0
    return shutil.copytree(folder, folder.parent / "kept")


@pytest.fixture
def folder(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder of a reader who has run the demo; no cluster of anybody's is joined, and none is left."""
    checkout = demo.parent / "checkout"  # the dataset's identity holds where its input is
    shutil.rmtree(checkout)
    shutil.copytree(demo, checkout)
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging_face"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    yield checkout
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def run(words: list[str], where: str) -> None:
    """Run a command in this folder; our own in this process, which has imported everything once for all."""
    if words[0] == "dr-pipeline":
        assert main(words[1:]) == 0, where
    elif words[:2] == ["python", "-m"] and words[2].startswith("dr_pipeline."):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words[2:])
            importlib.import_module(words[2]).main()
    else:
        ran = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert ran.returncode == 0, f"{where}\n{ran.stdout}\n{ran.stderr}"


def starts_ray(page: Path) -> bool:
    """Whether a command of the page reinforces without `workers.engine=local`."""
    commands = [command for block in blocks(page) if block.runs for command in block.commands()]
    reinforcing = [line for line in commands if re.match("dr-pipeline (run|verify .*--repair) ", line)]
    return any("workers.engine=local" not in line for line in reinforcing)


WITH_BLOCKS = [
    pytest.param(page, id=named(page), marks=[pytest.mark.ray] if starts_ray(page) else [])
    for page in PAGES
    if any(block.runs for block in blocks(page))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_its_blocks_run_in_order(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if page.name == "getting_started.md":  # whose reader has not run the demo
        shutil.rmtree(folder / "outputs")
    for block in blocks(page):
        if not block.runs:
            continue
        if block.language == "python":
            run([sys.executable, "-c", block.text], block.text)
            continue
        for command in block.commands():
            run(shlex.split(command, comments=True), command)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_what_is_not_run_says_why(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    told = [block.remark for block in blocks(page) if block.remark]
    assert text.count("<!-- not run") == len(told), "a remark belongs on the line before its block"
    for remark in told:
        assert re.fullmatch(r"not run: \w+s .+", remark), remark
    for block in blocks(page):
        lines = block.text.splitlines() if block.language == "" else []
        assert not [line for line in lines if line.startswith(PROGRAMS)], f"{block.text}: commands are sh or console"


def test_pages_that_have_commands_are_run() -> None:
    """That the blocks are found at all."""
    run_here = {named(page): sum(len([*b.commands()]) for b in blocks(page) if b.runs) for page in PAGES}
    assert {name for name, count in run_here.items() if count} >= {
        "README.md",
        "docs/evaluation.md",
        "docs/foreign_trainers.md",
        "docs/jobs.md",
        "docs/ray.md",
        "docs/security.md",
        "docs/training.md",
        "docs/tuning.md",
        "teachers/README.md",
    }
    assert run_here["README.md"] >= 10
