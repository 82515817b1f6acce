"""AdamW as CLIP is trained with it, or SGD: which parameters decay, and the learning rate of a step."""

import math
from typing import Any

import torch
from torch import nn

from dr_pipeline.config.training import Schedule


def make_optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """The optimizer, with the schedule's constants. Weights of two or more dims decay; norms and biases do not."""
    norms = {name for name, child in module.named_modules() if "Norm" in type(child).__name__}
    decayed, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, value in module.named_parameters():
        if value.requires_grad:
            decays = value.ndim >= 2 and name.rpartition(".")[0] not in norms and not name.endswith("bias")
            (decayed if decays else others).append(value)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    if schedule.optimizer == "sgd":
        groups[0]["weight_decay"] = schedule.weight_decay
        return torch.optim.SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum, nesterov=True)
    return torch.optim.AdamW(
        groups,
        lr=schedule.learning_rate,
        betas=schedule.betas,
        eps=schedule.eps,
        weight_decay=schedule.weight_decay,
        fused=next(module.parameters()).device.type == "cuda" or None,  # one kernel for all weights
    )


def learning_rate(step: int, schedule: Schedule) -> float:
    """Of step 0, 1, …: a linear rise over the warm-up, then half a cosine down to the minimum."""
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / (schedule.steps - schedule.warmup_steps)
    height = schedule.learning_rate - schedule.min_learning_rate
    return schedule.min_learning_rate + height * (1 + math.cos(math.pi * progress)) / 2
