"""A student's step waits for nothing that a GPU does, here one that is not there (tests/pretend_gpu.py)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dr_pipeline.config.training import TrainJob
from dr_pipeline.training import network, trainer
from dr_pipeline.training.data import rendering
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.training.distributed import Rank
from dr_pipeline.training.trainer import Trainer
from tests.pretend_gpu import CUDA, PretendGpu, pretend_gpu
from tests.training.conftest import CLIP, COCA, MakeJob, take_step
from tests.training.test_classify import classify_job, folder

__all__ = ["folder"]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendGpu]:
    """A GPU on which students are trained, without kernels."""
    for module in (network, rendering):
        monkeypatch.setattr(module, "runs_kernels", lambda device: False)
    monkeypatch.setattr(trainer, "pick_device", lambda: CUDA)
    with pretend_gpu(monkeypatch) as gpu:
        yield gpu


def waits_of_a_step(job: TrainJob, gpu: PretendGpu, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the second step waits, whose gradients are made up: torch's backward pass asks the driver for its GPUs."""
    student = Trainer(job, open_training_set(job), Rank(), None)

    def backward(loss: torch.Tensor) -> None:
        for parameter in student.network.module.parameters():
            parameter.grad = torch.ones_like(parameter)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    take_step(student)
    assert student._batches is not None
    batch = next(student._batches).pin_memory()
    gpu.waits.clear()
    launched = student.launch(batch)
    waits = list(gpu.waits)
    assert student.finish(launched).step == 2
    return waits


@pytest.mark.parametrize(
    ("tower", "changes"),
    [
        (CLIP, {"run": {"precision": "float32"}}),
        (CLIP, {"student": {"grad_checkpointing": True}, "schedule": {"accumulation": 2}}),
        ({**CLIP, "custom_text": True, "text_cfg": {**CLIP["text_cfg"], "no_causal_mask": True}}, {}),
        (COCA, {"objective": "coca"}),
    ],
    ids=["clip", "accumulated", "not causal", "coca"],
)
def test_a_step_is_launched_without_waiting(
    tower: dict[str, Any],
    changes: dict[str, Any],
    make_train_job: MakeJob,
    on_gpu: PretendGpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {**changes, "schedule": {"ema_decay": 0.9, **changes.get("schedule", {})}}
    assert waits_of_a_step(make_train_job(tower, **changes), on_gpu, monkeypatch) == []


def test_nor_does_a_classifier_s_step_wait(
    folder: Path, tmp_path: Path, on_gpu: PretendGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = classify_job(tmp_path, folder / "out", schedule={"ema_decay": 0.9})
    assert waits_of_a_step(job, on_gpu, monkeypatch) == []
