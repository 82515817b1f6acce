"""The learning rate of every step, and which weights decay."""

import math

import pytest
import torch
from open_clip import model

from dr_pipeline.config.training import Schedule
from dr_pipeline.training.schedule import learning_rate, make_optimizer
from tests.training.conftest import CLIP, CONVOLUTIONAL

SCHEDULE = Schedule(steps=100, batch_size=8, learning_rate=1e-3, min_learning_rate=1e-5, warmup_steps=10)


def test_a_linear_rise_and_half_a_cosine() -> None:
    rates = [learning_rate(step, SCHEDULE) for step in range(100)]
    assert rates[:10] == pytest.approx([1e-4 * step for step in range(1, 11)])
    assert rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx((1e-3 + 1e-5) / 2)
    assert rates[99] == pytest.approx(1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * 89 / 90)) / 2)
    assert sorted(rates[10:], reverse=True) == rates[10:]


@pytest.mark.parametrize("config", [CLIP, CONVOLUTIONAL])
def test_norms_biases_and_the_logit_scale_do_not_decay(config: dict) -> None:
    module = model.CLIP(**config)
    module.logit_bias = torch.nn.Parameter(torch.zeros(1, 1))  # two dimensions, and a bias all the same
    decayed, rest = make_optimizer(module, SCHEDULE).param_groups
    names = {id(value): name for name, value in module.named_parameters()}
    spared = {names[id(value)] for value in rest["params"]}
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.2, 0.0)
    assert len(decayed["params"]) + len(spared) == len(names)
    assert {"logit_scale", "logit_bias", "ln_final.weight"} <= spared
    kept = {names[id(value)] for value in decayed["params"]}
    assert {"token_embedding.weight", "text_projection"} <= kept
    assert not any(name.endswith("bias") or ".bn" in name or ".ln" in name for name in kept)
