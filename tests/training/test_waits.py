"""A student's step waits for nothing that a GPU does, here one that is not there (tests/pretend_gpu.py)."""

from typing import Any

import pytest
import torch

from dr_pipeline.training import network, trainer
from dr_pipeline.training.data import rendering
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.training.distributed import Rank
from dr_pipeline.training.trainer import Trainer
from tests.pretend_gpu import CUDA, pretend_gpu
from tests.training.conftest import CLIP, COCA, MakeJob, take_step


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
    tower: dict[str, Any], changes: dict[str, Any], make_train_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (network, rendering):  # no kernels
        monkeypatch.setattr(module, "runs_kernels", lambda device: False)
    monkeypatch.setattr(trainer, "pick_device", lambda: CUDA)
    changes = {**changes, "schedule": {"ema_decay": 0.9, **changes.get("schedule", {})}}
    job = make_train_job(tower, **changes)
    with pretend_gpu(monkeypatch) as gpu:
        student = Trainer(job, open_training_set(job), Rank(), None)

        def backward(loss: torch.Tensor) -> None:
            for parameter in student.network.module.parameters():
                parameter.grad = torch.ones_like(parameter)

        monkeypatch.setattr(torch.Tensor, "backward", backward)  # torch's asks the driver which GPUs are in use
        take_step(student)
        assert student._batches is not None
        batch = next(student._batches).pin_memory()
        gpu.waits.clear()
        launched = student.launch(batch)
        assert gpu.waits == []
        assert student.finish(launched).step == 2
