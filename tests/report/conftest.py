"""Training runs that are looked at: short ones, on small real data."""

import re
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from dr_pipeline.config.training import TrainJob
from dr_pipeline.demo.held_out import write_held_out
from dr_pipeline.training.train import train
from tests.training.conftest import make_train_job, train_job

__all__ = ["make_train_job"]

OF_RUNS = pytest.mark.xdist_group("runs")
"""Has the runs below trained once."""
HOSTILE = "<img src=x onerror=alert(1)></script><b>"


def write_tasks(folder: Path) -> dict[str, Any]:
    """Held-out scenes for a run's evaluation; the name of a class would be HTML."""
    write_held_out(folder, 24)
    names = folder / "classification/classnames.txt"
    names.write_text(names.read_text().replace("orange circle", HOSTILE))
    kinds = ("classification", "retrieval")
    return {kind: [{"name": f"scenes {kind}", "data": str(folder / kind / "test")}] for kind in kinds}


@pytest.fixture(scope="session")
def student_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after its third step, and ended later; its name would be HTML."""
    return _train_student(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def classifier_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run of a classifier, which is measured on nothing."""
    return _train_classifier(tmp_path_factory.getbasetemp())


@cache  # other folders import the fixtures, of which each would train its own
def _train_student(base: Path) -> Path:
    folder = base / "student"
    folder.mkdir()
    evaluation = {"every": 2, **write_tasks(folder / "held_out")}
    for stop_at in (3, None):
        train(train_job(folder, name=f"student {HOSTILE}", evaluation=evaluation, schedule={"stop_at": stop_at}), None)
    return folder / "run"


@cache
def _train_classifier(base: Path) -> Path:
    folder = base / "classifier"
    folder.mkdir()
    write_held_out(folder, 24)
    tree = {
        "name": "scene classes",
        "objective": "classify",
        "data": {
            "shards": str(folder / "classification/test"),
            "augmentation": {"random_resized_crop": {"size": 32}},
            "workers": 0,
        },
        "student": {"architecture": "timm:test_vit", "num_classes": 64, "image_size": 32},
        "distillation": {"weight": 0},
        "schedule": {"steps": 2, "batch_size": 8, "warmup_steps": 1},
        "run": {"path": str(folder / "run"), "log_every": 1},
    }
    train(TrainJob.model_validate(tree), None)
    return folder / "run"


def text_of(html: str) -> str:
    """What a page says, without its tags and with single blanks."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())
