"""One step: what enters the loss, and that how it is computed does not change it."""

from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dr_pipeline.config.job import Job
from dr_pipeline.config.training import TrainJob
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_teacher
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.training.distributed import Rank
from dr_pipeline.training.online import OnlineTeachers
from dr_pipeline.training.trainer import Trainer, _follow
from tests.conftest import GOLDEN, write_tar
from tests.tars import read_members
from tests.training.conftest import CLIP, COCA, MakeJob, take_step

CPU = torch.device("cpu")


def trainer_of(job: TrainJob, teachers: OnlineTeachers | None = None) -> Trainer:
    return Trainer(job, open_training_set(job), Rank(), teachers)


def losses(job: TrainJob, steps: int = 3, teachers: OnlineTeachers | None = None) -> list[float]:
    trainer = trainer_of(job, teachers)
    return [take_step(trainer).loss for _ in range(steps)]


def test_a_step_is_launched_before_the_metrics_of_the_last_are_awaited(make_train_job: MakeJob) -> None:
    one_by_one, ahead = trainer_of(make_train_job()), trainer_of(make_train_job())
    expected = [take_step(one_by_one) for _ in range(6)]
    stood, found = [], []
    for metrics in ahead.steps(lambda step: step == 3):
        stood.append(ahead.step)
        found.append(metrics)
    assert stood == [2, 3, 3, 5, 6, 6]
    assert [(one.step, one.loss, one.learning_rate, one.logit_scale) for one in found] == [
        (one.step, one.loss, one.learning_rate, one.logit_scale) for one in expected
    ]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.result.named_parameters()}


@pytest.mark.parametrize(("network", "objective"), [(CLIP, "clip"), (COCA, "coca")])
def test_micro_batches_make_the_same_step(make_train_job: MakeJob, network: dict[str, Any], objective: str) -> None:
    whole, parts = (
        trainer_of(make_train_job(network, objective=objective, schedule={"batch_size": 8, "accumulation": parts}))
        for parts in (1, 4)
    )
    first, second = take_step(whole), take_step(parts)
    assert first.loss == pytest.approx(second.loss, rel=1e-6)
    assert first.gradient_norm == pytest.approx(second.gradient_norm, rel=1e-5)


@pytest.mark.parametrize("changes", [{"grad_checkpointing": True}, {"compile": True}], ids=["checkpointed", "compiled"])
def test_ways_to_compute_a_step_do_not_change_it(
    make_train_job: MakeJob, changes: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Graphs and gradients as compiled, but without the compiler for the CPU, which takes minutes.
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    plain, other = losses(make_train_job()), losses(make_train_job(student=changes))
    assert other == pytest.approx(plain, rel=1e-4)


def test_bfloat16_is_near_float32(make_train_job: MakeJob) -> None:
    exact, rounded = (losses(make_train_job(run={"precision": name})) for name in ("float32", "bfloat16"))
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("causal", [True, False])
def test_caption_weights_add_up(make_train_job: MakeJob, causal: bool) -> None:
    network = {**CLIP, "custom_text": True, "text_cfg": {**CLIP["text_cfg"], "no_causal_mask": not causal}}
    both, ground_truth, synthetic = (
        losses(make_train_job(network, captions={"ground_truth_weight": first, "synthetic_weight": second}), 1)[0]
        for first, second in ((2.0, 0.5), (1.0, 0.0), (0.0, 1.0))
    )
    assert both == pytest.approx(2.0 * ground_truth + 0.5 * synthetic, rel=1e-5)


def test_plain_training_needs_no_embeddings(make_train_job: MakeJob, tmp_path: Path) -> None:
    with open(GOLDEN / "shards/v2_bf16.tar", "rb") as file:
        kept = [(name, data) for name, data in read_members(file) if not name.endswith(("pth.gz", "npz"))]
    shard = write_tar(tmp_path / "plain" / "0.tar", kept)
    data = {"shards": str(shard), "teachers": None}
    assert len(losses(make_train_job(data=data, distillation={"weight": 0.0}))) == 3


def test_online_distillation_is_stored_distillation_at_another_price(
    make_train_job: MakeJob, reinforced_scenes: Job
) -> None:
    cards = reinforced_scenes.teachers
    ensemble = Ensemble([(card.name, load_teacher(card, CPU)) for card in cards], CPU, "float32")
    data = {"shards": reinforced_scenes.output.path, "teachers": None, "workers": 0}
    online = {"online_teachers": [card.model_dump(mode="json") for card in cards]}
    stored = losses(make_train_job(data=data))
    assert losses(make_train_job(data=data, distillation=online), teachers=ensemble) == pytest.approx(stored, rel=1e-4)


def test_the_average_follows_the_weights(make_train_job: MakeJob) -> None:
    averaged, plain = trainer_of(make_train_job(schedule={"ema_decay": 0.9})), trainer_of(make_train_job())
    expected: dict[str, torch.Tensor] = {}
    for _ in range(4):
        take_step(averaged)
        take_step(plain)
        now = weights(plain)
        expected = {name: 0.9 * expected.get(name, now[name]) + 0.1 * now[name] for name in now}
    for name, value in weights(averaged).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_the_average_is_torch_s_to_the_last_bit_and_keeps_the_last_buffers() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    torchs = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    ours = AveragedModel(module)
    for _ in range(4):
        with torch.no_grad():
            for value in (*module.parameters(), *module.buffers()):
                value.add_(torch.randn(value.shape) if value.is_floating_point() else 1)
        torchs.update_parameters(module)
        _follow(ours, module, 0.9)
        expected = torchs.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())


def test_the_logit_scale_stays_below_a_hundred(make_train_job: MakeJob) -> None:
    trainer = trainer_of(make_train_job(schedule={"learning_rate": 10.0, "steps": 9}))
    scales = [take_step(trainer).logit_scale for _ in range(9)]
    assert max(scales) <= 100.001


@pytest.mark.parametrize(
    ("network", "changes", "parts"),
    [
        (CLIP, {"captions": {"ground_truth_weight": 2.0}}, ["text", "synthetic"]),
        (CLIP, {"distillation": {"affinity": {"one": {"weight": 0.5}}}}, ["text", "synthetic", "affinity"]),
        (CLIP, {"captions": {"synthetic_weight": 0.0}}, ["text"]),
        (COCA, {"objective": "coca"}, ["contrastive", "captions"]),
    ],
    ids=["clip", "affinity", "one", "coca"],
)
def test_the_loss_is_the_sum_of_its_parts(
    make_train_job: MakeJob, network: dict[str, Any], changes: dict[str, Any], parts: list[str]
) -> None:
    metrics = take_step(trainer_of(make_train_job(network, **changes)))
    assert [*metrics.losses] == parts
    assert all(part > 0 for part in metrics.losses.values())
    assert sum(metrics.losses.values()) == pytest.approx(metrics.loss, rel=1e-6)
