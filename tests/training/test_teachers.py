"""Some of a dataset's teachers: their columns alone enter the loss."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dr_pipeline.config.job import Job
from dr_pipeline.config.training import TrainJob
from dr_pipeline.errors import ConfigError
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_teacher
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.training.distributed import Rank
from dr_pipeline.training.online import OnlineTeachers
from dr_pipeline.training.trainer import Trainer
from tests.conftest import GOLDEN, write_tar
from tests.tars import read_members
from tests.training.conftest import GOLDEN_TEACHERS, MakeJob, take_step

V1 = GOLDEN / "shards/v1_fp32.tar"
FIRST = GOLDEN_TEACHERS[0]["dim"]
CPU = torch.device("cpu")


def losses(job: TrainJob, teachers: OnlineTeachers | None = None) -> list[float]:
    trainer = Trainer(job, open_training_set(job), Rank(), teachers)
    return [take_step(trainer).loss for _ in range(3)]


def cut(npz: bytes) -> bytes:
    """The second teacher's columns alone."""
    with np.load(io.BytesIO(npz), allow_pickle=False) as stored:
        arrays = {name: stored[name][:, FIRST:] for name in stored.files}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture
def second_alone(tmp_path: Path) -> dict[str, Any]:
    """`data` of a dataset that never had the first teacher."""
    with V1.open("rb") as file:
        members = [(name, cut(data) if name.endswith(".npz") else data) for name, data in read_members(file)]
    return {"shards": str(write_tar(tmp_path / "second/0.tar", members)), "teachers": GOLDEN_TEACHERS[1:]}


def test_one_teacher_of_two_is_a_dataset_of_one(make_train_job: MakeJob, second_alone: dict[str, Any]) -> None:
    both = {"data": {"shards": str(V1)}}
    alone = losses(make_train_job(data=second_alone))
    assert losses(make_train_job(**both, distillation={"teachers": ["two"]})) == pytest.approx(alone, rel=1e-6)
    assert losses(make_train_job(**both)) != pytest.approx(alone, rel=1e-2)


def test_logit_scales_are_in_the_order_of_the_names(make_train_job: MakeJob, second_alone: dict[str, Any]) -> None:
    def both(**distillation: Any) -> list[float]:
        return losses(make_train_job(data={"shards": str(V1)}, distillation=distillation))

    assert both(teachers=["two", "one"], logit_scales=[3, 40]) == pytest.approx(both(logit_scales=[40, 3]), rel=1e-6)
    scaled = losses(make_train_job(data=second_alone, distillation={"logit_scales": [3]}))
    assert both(teachers=["two"], logit_scales=[3]) == pytest.approx(scaled, rel=1e-6)
    with pytest.raises(ConfigError, match=r"logit_scales has 2 values for 1 teachers: two"):
        both(teachers=["two"], logit_scales=[3, 4])


def test_one_online_teacher_of_two_is_the_stored_one(make_train_job: MakeJob, reinforced_scenes: Job) -> None:
    cards = reinforced_scenes.teachers
    data = {"shards": reinforced_scenes.output.path, "teachers": None}
    names = [cards[1].name]
    stored = losses(make_train_job(data=data, distillation={"teachers": names}))
    online = {"teachers": names, "online_teachers": [card.model_dump(mode="json") for card in cards]}
    for loaded in (cards, cards[1:]):
        ensemble = Ensemble([(card.name, load_teacher(card, CPU)) for card in loaded], CPU, "float32")
        job = make_train_job(data=data, distillation=online)
        assert losses(job, ensemble) == pytest.approx(stored, rel=1e-4)


def test_an_unknown_teacher_is_named_with_those_there_are(make_train_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match=r"teachers: no teacher tow; did you mean two\?; there are one"):
        open_training_set(make_train_job(distillation={"teachers": ["one", "tow"]}))
    assert losses(make_train_job(distillation={"teachers": ["tow"], "weight": 0})), "no teacher is looked at"
