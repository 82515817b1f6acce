"""The training job: strict, and an identity of exactly what decides the weights."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from dr_pipeline.config.job import differing_keys
from dr_pipeline.config.jobfile import load
from dr_pipeline.config.training import TrainJob
from dr_pipeline.errors import ConfigError
from tests.conftest import merged

SECRET = "CANARY-f00d"
CARD = {"name": "one", "use": "lab:Clip"}
TASK = {"name": "scenes", "data": "held_out"}


def tree(**changes: Any) -> dict[str, Any]:
    minimal = {
        "name": "tiny",
        "data": {"shards": "in"},
        "student": {"architecture": "ViT-B-16"},
        "schedule": {"steps": 20_000, "batch_size": 8},
        "run": {"path": "out"},
    }
    return merged(minimal, changes)


def make(**changes: Any) -> TrainJob:
    return TrainJob.model_validate(tree(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": {"ground_truth_weight": 0, "synthetic_weight": 0}}, "both 0: nothing is learnt"),
        ({"captions": {"synthetic_weight": -1}}, "greater than or equal to 0"),
        ({"captions": {"synthetic_key": "syn_text("}}, "not a regular expression"),
        ({"distillation": {"weight": 1.1}}, "less than or equal to 1"),
        ({"distillation": {"logit_scales": [70, 0]}}, "greater than 0"),
        ({"schedule": {"steps": 10_000}}, r"warmup_steps \(10000\) must be fewer than steps \(10000\)"),
        ({"schedule": {"min_learning_rate": 0.1}}, r"min_learning_rate \(0.1\) is more than learning_rate"),
        ({"schedule": {"accumulation": 3}}, r"batch_size \(8\) must be a multiple of accumulation \(3\)"),
        ({"schedule": {"ema_decay": 1.0}}, "less than 1"),
        ({"student": {"tokenizer": "no class"}}, "match pattern"),
        ({"data": {"view": "first"}}, "'random' or 'sequential'"),
        ({"data": {"max_skipped": 1.5}}, "less than or equal to 1"),
        ({"data": {"base": {"shards": "b", "match": "json.uid"}}}, "match pattern"),
        ({"data": {"teachers": [{"name": "one", "dim": 8}]}}, "logit_scale"),
        ({"objective": "siglip"}, "'clip', 'coca' or 'classify'"),
        ({"run": {"precision": "float16"}}, "'bfloat16'"),
        ({"evaluation": {"classification": [TASK], "retrieval": [TASK]}}, "two tasks are called scenes"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make(**changes)


def test_an_unknown_key_is_named_with_the_nearest_valid_one(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(tree(schedule={"learning_rte": 1}, data={"base": {"shard": "b"}})))
    with pytest.raises(ConfigError) as refused:
        load(path, TrainJob)
    assert "schedule.learning_rte: unknown key; did you mean learning_rate?" in str(refused.value)
    assert "data.base.shard: unknown key; did you mean shards?" in str(refused.value)


def test_online_teachers_are_cards_that_the_job_may_change(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"use": "lab:Clip", "logit_scale": 50, "options": {"a": 1}}))
    entry = {"card": "one.yaml", "logit_scale": 70, "options": {"b": 2}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree(distillation={"online_teachers": [entry]})))
    (card,) = load(tmp_path / "job.yaml", TrainJob).distillation.online_teachers
    assert (card.name, card.use, card.logit_scale, card.options) == ("one", "lab:Clip", 70, {"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("changes", "distils", "reads"),
    [
        ({}, True, True),
        ({"distillation": {"weight": 0}}, False, False),
        ({"distillation": {"online_teachers": [CARD]}}, True, False),
        ({"objective": "coca"}, False, False),
    ],
)
def test_stored_embeddings_are_read_where_the_loss_needs_them(
    changes: dict[str, Any], distils: bool, reads: bool
) -> None:
    assert (make(**changes).distils, make(**changes).reads_embeddings) == (distils, reads)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"objective": "coca"},
        {"data": {"shards": "other"}},
        {"data": {"base": {"shards": "b"}}},
        {"data": {"augmentation": {}}},
        {"data": {"view": "sequential"}},
        {"data": {"workers": 1}},  # each process reads a stream of its own
        {"student": {"weights": "some.pt"}},
        {"captions": {"synthetic_key": "syn_text"}},
        {"distillation": {"logit_scales": [7]}},
        {"distillation": {"online_teachers": [CARD]}},
        {"coca": {"caption_weight": 1}},
        {"schedule": {"steps": 20_001}},
        {"run": {"precision": "bfloat16"}},
    ],
)
def test_the_identity_changes_with_what_decides_the_weights(changes: dict[str, Any]) -> None:
    assert differing_keys(make().identity(), make(**changes).identity())


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"run": {"path": "elsewhere", "log_every": 1, "checkpoint_every": 1, "keep_checkpoints": 9}},
        {"evaluation": {"retrieval": [TASK], "every": 5}},
        {"plugin_dirs": ["lab"]},
        {"data": {"storage": {"profile": "other"}}},
    ],
)
def test_the_identity_holds_still_for_the_rest(changes: dict[str, Any]) -> None:
    assert make(**changes).identity() == make().identity()


def test_storage_values_are_nowhere() -> None:
    secret = {"storage": {"secret": SECRET}}
    job = make(data={"base": {"shards": "b", **secret}, **secret}, evaluation={"retrieval": [TASK | secret]})
    for text in (repr(job), str(job.data), repr(job.data.base), repr(job.identity())):
        assert SECRET not in text
