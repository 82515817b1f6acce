"""The affinity loss: its value, and runs in which teachers of images alone, or of texts alone, take part."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dr_pipeline import open_dataset
from dr_pipeline.config.training import TrainJob
from dr_pipeline.errors import ConfigError, ShardError
from dr_pipeline.networks.images import normalise
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.training.distributed import Rank
from dr_pipeline.training.losses import Rows, affinity_loss
from dr_pipeline.training.trainer import Trainer
from tests.conftest import GOLDEN, write_tar
from tests.tars import read_members
from tests.training.conftest import CLIP, GOLDEN_TEACHERS, MakeJob, take_step

B, D = 6, 4
SCALE = 9.0
DINO = {"name": "dino", "dim": 3, "logit_scale": 8, "encodes": ["images"]}
BERT = {"name": "bert", "dim": 2, "logit_scale": 4, "encodes": ["texts"]}


def unit(seed: int, dim: int, rows: int = B) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)


def by_hand(student_BD: np.ndarray, teacher_BD: np.ndarray, scale: float) -> float:
    """The divergence, row by row, in float64."""
    total = 0.0
    for row in range(len(student_BD)):
        others = [other for other in range(len(student_BD)) if other != row]
        p, q = (np.exp(scale * (emb_BD @ emb_BD[row])[others]) for emb_BD in (teacher_BD, student_BD))
        p, q = p / p.sum(), q / q.sum()
        total += float((p * np.log(p / q)).sum())
    return total / len(student_BD)


def test_the_value_is_the_mean_divergence_of_rows_without_themselves() -> None:
    student_BD, teacher_BD = unit(0, D), unit(1, 3)
    expected = by_hand(student_BD.numpy(), teacher_BD.numpy(), SCALE)
    value = affinity_loss(Rows(student_BD), Rows(teacher_BD), SCALE)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    single = affinity_loss(Rows(student_BD.float()), Rows(teacher_BD.float()), SCALE)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_the_derivative() -> None:
    def loss(own_BD: torch.Tensor) -> torch.Tensor:
        return affinity_loss(Rows(own_BD), Rows(unit(1, 3)), SCALE)

    assert torch.autograd.gradcheck(loss, [unit(0, D).requires_grad_()])


def test_a_student_with_the_teacher_s_similarities_has_no_loss_and_no_gradient() -> None:
    turn_DD = torch.linalg.qr(unit(5, D, D)).Q
    own_BD = (unit(0, D) @ turn_DD).requires_grad_()
    loss = affinity_loss(Rows(own_BD), Rows(unit(0, D)), SCALE)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert own_BD.grad is not None
    assert own_BD.grad.abs().max().item() < 1e-12


@pytest.mark.parametrize("first", [0, 2, 4])
def test_a_rank_compares_its_rows_with_all_but_themselves(first: int) -> None:
    student_GD, teacher_GD = unit(0, D), unit(1, 3)
    own = slice(first, first + 2)
    part = affinity_loss(Rows(student_GD[own], student_GD, first), Rows(teacher_GD[own], teacher_GD, first), SCALE)
    log_p, log_q = (Rows(all_GD).log_affinities(SCALE)[own] for all_GD in (teacher_GD, student_GD))
    others = log_p.exp() > 0
    assert others.sum() == 2 * (B - 1)
    expected = (log_p.exp() * (log_p - log_q))[others].sum() / 2
    assert part.item() == pytest.approx(expected.item(), rel=1e-12)


def with_own_teachers(npz: bytes, keeps_pairs: bool) -> bytes:
    """The arrays of a golden sample with those of a teacher of images alone, and of one of texts alone."""
    with np.load(io.BytesIO(npz), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    views, texts = arrays["image_emb"], arrays["text_emb"]
    extra = {
        "image_emb_dino": views[[0] * len(views), :3],
        "text_emb_bert": texts[:1, :2],
        "syn_text_emb_bert": texts[1:, :2],
    }
    made = {name: array / np.linalg.norm(array, axis=1, keepdims=True) for name, array in extra.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **(arrays if keeps_pairs else {}), **made)
    return buffer.getvalue()


def write_data(folder: Path, keeps_pairs: bool) -> dict[str, Any]:
    """`data` of a dataset with these two teachers, beside those of images and texts or without."""
    with (GOLDEN / "shards/v1_fp32.tar").open("rb") as file:
        members = [
            (name, with_own_teachers(content, keeps_pairs) if name.endswith(".npz") else content)
            for name, content in read_members(file)
        ]
    pairs = GOLDEN_TEACHERS if keeps_pairs else []
    return {"shards": str(write_tar(folder / "own/0.tar", members)), "teachers": [*pairs, DINO, BERT]}


@pytest.fixture(params=[True, False], ids=["beside pairs", "alone"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return write_data(tmp_path, request.param)


def trainer_of(job: TrainJob) -> Trainer:
    return Trainer(job, open_training_set(job), Rank(), None)


def test_open_dataset_gives_each_teacher_s_columns(data: dict[str, Any]) -> None:
    dataset = open_dataset(data["shards"], teachers=data["teachers"])
    names = [teacher["name"] for teacher in data["teachers"]]
    assert list(dataset.dims) == list(dataset.logit_scales) == names
    sample = next(iter(dataset))
    assert list(sample["image_emb"]) == names[:-1]
    assert list(sample["text_emb"]) == list(sample["synthetic_emb"]) == [*names[:-2], "bert"]
    assert sample["image_emb"]["dino"].shape == (3,)
    assert sample["text_emb"]["bert"].shape == (2,)


def test_the_loss_adds_up(make_train_job: MakeJob, data: dict[str, Any]) -> None:
    def loss(**affinity: Any) -> float:
        job = make_train_job(data=data, distillation={"weight": 0, "affinity": affinity})
        return take_step(trainer_of(job)).loss

    clip, dino, bert = loss(), loss(dino={}), loss(bert={})
    assert dino - clip > 0.01
    assert bert - clip > 0.01
    both = loss(dino={"weight": 0.5, "logit_scale": 8}, bert={"weight": 3})
    assert both == pytest.approx(clip + 0.5 * (dino - clip) + 3 * (bert - clip), rel=1e-5)
    assert loss(dino={"logit_scale": 2}) != pytest.approx(dino, rel=1e-3)


def test_a_student_comes_nearer_to_the_teacher_s_similarities(make_train_job: MakeJob, tmp_path: Path) -> None:
    data = write_data(tmp_path, keeps_pairs=False)
    samples = list(open_dataset(data["shards"], teachers=data["teachers"], image_size=32, sequential_views=True))
    images_BHWC = torch.from_numpy(np.stack([sample["image"] for sample in samples]))
    dino_BD = torch.from_numpy(np.stack([sample["image_emb"]["dino"] for sample in samples]))

    def distance(affinity: dict[str, Any]) -> float:
        """Of the trained student from the teacher, on the samples' first views."""
        job = make_train_job(
            data={**data, "view": "sequential"},
            distillation={"weight": 0, "affinity": affinity},
            schedule={"steps": 20, "batch_size": 8, "learning_rate": 3e-3},
        )
        trainer = trainer_of(job)
        for _ in range(20):
            take_step(trainer)
        images_BCHW = images_BHWC.permute(0, 3, 1, 2).float()
        with torch.no_grad():
            own_BD = normalize(trainer.network.module.encode_image(normalise(images_BCHW, trainer.network.image)))
        return affinity_loss(Rows(own_BD), Rows(dino_BD), 8).item()

    taught = distance({"dino": {"weight": 5}})
    assert taught < 0.8 * distance({})


def test_micro_batches_make_the_same_step(make_train_job: MakeJob, data: dict[str, Any]) -> None:
    distillation = {"weight": 0, "affinity": {"dino": {}, "bert": {}}}
    whole, parts = (
        take_step(
            trainer_of(
                make_train_job(
                    CLIP, data=data, distillation=distillation, schedule={"batch_size": 8, "accumulation": n}
                )
            )
        )
        for n in (1, 4)
    )
    assert whole.loss == pytest.approx(parts.loss, rel=1e-6)
    assert whole.gradient_norm == pytest.approx(parts.gradient_norm, rel=1e-5)


def test_what_is_not_stored_is_told(make_train_job: MakeJob, data: dict[str, Any]) -> None:
    def refused(**changes: Any) -> None:
        open_training_set(make_train_job(**changes))

    with pytest.raises(ConfigError, match=r"distillation\.affinity: no teacher dno; did you mean dino\?; there are "):
        refused(data=data, distillation={"weight": 0, "affinity": {"dno": {}}})
    wrong = {**data, "teachers": [*data["teachers"][:-2], {**DINO, "dim": 5}]}
    with pytest.raises(ConfigError, match=r"image_emb_dino embeddings of .* have 3 dims, but .* have 5 \(dino\)"):
        refused(data=wrong, distillation={"weight": 0, "affinity": {"dino": {}}})
    lost = {**data, "teachers": [{**DINO, "name": "lost"}]}
    job = make_train_job(data=lost, distillation={"weight": 0, "affinity": {"lost": {}}})
    with pytest.raises(ShardError, match=r"missing embedding"):
        take_step(trainer_of(job))
    with pytest.raises(ConfigError, match=r"names no teacher of images and texts, .* only dino: set distillation"):
        refused(data={**data, "teachers": [DINO]})


def test_only_clip_has_affinities(make_train_job: MakeJob) -> None:
    with pytest.raises(ValueError, match=r"distillation\.affinity: only objective clip"):
        make_train_job(objective="coca", distillation={"affinity": {"dino": {}}})
    assert "affinity" not in make_train_job().identity()["distillation"], "jobs without it are the jobs they were"
