"""Classifiers as students: their losses, their runs on plain and on reinforced images, and what these leave."""

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from dr_pipeline.config.evaluation import EvaluateJob, Tasks
from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import IMAGE, LABEL_INDICES, LABEL_VALUES, Column
from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.evaluation.evaluate import check_tasks
from dr_pipeline.runners.evaluation import evaluate
from dr_pipeline.runners.run import run
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.training.distributed import Rank
from dr_pipeline.training.losses import KnownClasses, class_divergence, label_loss
from dr_pipeline.training.metrics import read_metrics
from dr_pipeline.training.train import train
from dr_pipeline.training.trainer import Trainer
from dr_pipeline.views.mixing import pair_of
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.render import decode, render
from tests.conftest import merged, write_tar
from tests.demo_job import Silent
from tests.reinforce.classification import NUM_CLASSES, SIDE, job_of, write_digits
from tests.tars import read_members, read_reinforced
from tests.training.conftest import take_step

M = 7


def known(rows: int, num_known: int, seed: int = 0) -> KnownClasses:
    """The largest of random probabilities of M classes."""
    generator = torch.Generator().manual_seed(seed)
    dense_BM = torch.randn(rows, M, generator=generator, dtype=torch.float64).mul(3).softmax(dim=1)
    return KnownClasses(*dense_BM.topk(num_known))


def dense(classes: KnownClasses) -> torch.Tensor:
    """[B, M], the rest in equal parts."""
    rest_B = 1 - classes.values_BK.sum(dim=1)
    num_others = M - classes.values_BK.shape[1]
    dense_BM = (rest_B / max(num_others, 1))[:, None].repeat(1, M)
    return dense_BM.scatter(1, classes.indices_BK, classes.values_BK)


def logits(rows: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, M, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("num_known", [1, 3, M - 1, M])
def test_the_divergence_is_that_of_dense_rows(num_known: int) -> None:
    teachers, logits_BM = known(5, num_known), logits(5)
    expected = kl_div(log_softmax(logits_BM, dim=1), dense(teachers), reduction="batchmean")
    assert class_divergence(logits_BM, teachers).item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.autograd.gradcheck(lambda values: class_divergence(values, teachers), [logits_BM.requires_grad_()])
    own = dense(teachers).clamp(min=1e-300).log()
    assert class_divergence(own, teachers).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("num_known", [3, M])
def test_sums_that_rounding_took_above_1_are_of_1(num_known: int) -> None:
    values, indices = known(4, num_known)
    scaled = values / values.sum(dim=1, keepdim=True)
    too_large = class_divergence(logits(4), KnownClasses(1.01 * scaled, indices))
    assert too_large.item() == pytest.approx(class_divergence(logits(4), KnownClasses(scaled, indices)).item())


def test_thousands_of_classes_in_float32_are_those_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_BM = 4 * torch.randn(8, 21_841, generator=generator, dtype=torch.float64)
    teachers = KnownClasses(*(3 * torch.randn(8, 21_841, generator=generator, dtype=torch.float64)).softmax(1).topk(10))
    single = KnownClasses(teachers.values_BK.float(), teachers.indices_BK)
    exact = class_divergence(logits_BM, teachers).item()
    assert class_divergence(logits_BM.float(), single).item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_label_loss_is_torchs(smoothing: float) -> None:
    labels_B = torch.tensor([0, 3, 6, 3])
    classes = KnownClasses(torch.ones(4, 1, dtype=torch.float64), labels_B[:, None])
    expected = cross_entropy(logits(4), labels_B, label_smoothing=smoothing)
    assert label_loss(logits(4), classes, smoothing).item() == pytest.approx(expected.item(), rel=1e-12)
    both = KnownClasses(torch.tensor([[0.75, 0.25]] * 4, dtype=torch.float64), torch.tensor([[2, 5]] * 4))
    mixed = cross_entropy(logits(4), dense(both), label_smoothing=smoothing)
    assert label_loss(logits(4), both, smoothing).item() == pytest.approx(mixed.item(), rel=1e-12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`in`: digits in tars, the last without a class; `out`: reinforced by two classifiers."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "in", num_shards=2, samples_per_shard=9)
    run(job_of(folder), Silent())
    return folder


def classify_job(folder: Path, shards: Path, **changes: Any) -> TrainJob:
    tree = {
        "name": "digits",
        "objective": "classify",
        "data": {"shards": str(shards), "workers": 0, "max_skipped": 0.5},
        "student": {"architecture": "timm:test_efficientnet", "num_classes": NUM_CLASSES, "image_size": SIDE},
        "schedule": {"steps": 4, "batch_size": 8, "warmup_steps": 1, "learning_rate": 1e-3},
        "run": {"path": str(folder / "run"), "log_every": 1, "checkpoint_every": 2},
    }
    return TrainJob.model_validate(merged(tree, changes))


FAST = {"steps": 8, "optimizer": "sgd", "learning_rate": 0.05}
FRESH = {"data": {"augmentation": {"random_resized_crop": {"size": SIDE}}}, "distillation": {"weight": 0}}


def trainer_of(job: TrainJob) -> Trainer:
    return Trainer(job, open_training_set(job), Rank(), None)


class Killed:
    """A callback that kills a run after a step."""

    def __init__(self, after: int):
        self._after = after

    def started(self, *_: object) -> None:
        """The run begins."""

    def stepped(self, metrics: Any) -> None:
        """Kill it?"""
        if metrics.step == self._after:
            raise KeyboardInterrupt

    def evaluated(self, *_: object) -> None:
        """Not looked at."""


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_a_step_is_of_the_stored_views_and_their_probabilities(folder: Path, tmp_path: Path, weight: float) -> None:
    changes = {"distillation": {"weight": weight}, "classify": {"label_smoothing": 0.1}, "data": {"view": "sequential"}}
    trainer = trainer_of(classify_job(tmp_path, folder / "out/00000.tar", **changes))
    recipe = open_training_set(classify_job(tmp_path, folder / "out", **changes)).recipe
    batch = next(iter(trainer._loader))
    made = read_reinforced(folder / "out/00000.tar")
    pixels, teachers_BM, labels = [], [], []
    for key in batch.keys:
        sample = made[key]
        values, indices = (sample.columns[name, "image"][0] for name in ("probs values", "probs indices"))
        row_M = np.full(NUM_CLASSES, (1 - values.sum()) / (NUM_CLASSES - len(values)))
        row_M[indices] = values
        teachers_BM.append(row_M)
        labels.append(int(sample.members.get("cls", b"0")))
        pixels.append(render(decode(sample.members["png"], 10**6), [sample.views[0]], recipe)[0])
    assert np.array_equal(batch.images_BHWC.numpy(), np.stack(pixels))
    with torch.no_grad():
        logits_BM = trainer._objective._logits(batch.images_BHWC)[0].double()
    divergence = kl_div(log_softmax(logits_BM, dim=1), torch.tensor(np.stack(teachers_BM)), reduction="batchmean")
    expected = divergence
    if weight < 1:
        labelled = cross_entropy(logits_BM, torch.tensor(labels), label_smoothing=0.1)
        expected = weight * divergence + (1 - weight) * labelled
    assert trainer.network.module.training
    assert trainer.launch(batch).figures.wait()[0].item() == pytest.approx(expected.item(), rel=1e-4)


def curve(folder: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(folder) if record["event"] == "step"]


def test_labels_alone_teach(folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of(classify_job(tmp_path, folder / "in", **merged(FRESH, {"schedule": FAST})))
    losses = [take_step(trainer).loss for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_killed_run_goes_on_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    schedule = {**FAST, "accumulation": 2, "ema_decay": 0.5}
    changes = {"distillation": {"weight": 0.5}, "schedule": schedule, "run": {"checkpoint_every": 3}}
    train(classify_job(tmp_path, folder / "out", **changes), None)
    losses = curve(tmp_path / "run")
    assert losses[-1] < 0.9 * losses[0]
    assert (tmp_path / "run/curves.png").exists()
    killed = classify_job(tmp_path / "killed", folder / "out", **changes)
    with pytest.raises(KeyboardInterrupt):
        train(killed, Killed(after=5))
    train(killed, None)
    assert curve(tmp_path / "killed/run") == losses
    one, other = (tmp_path / name / "model/model.safetensors" for name in ("run", "killed/run"))
    assert one.read_bytes() == other.read_bytes()


def test_the_job_identity_is_that_of_before() -> None:
    clip = {"architecture": "ViT-B-32"}
    tree = {"name": "x", "data": {"shards": "x"}, "student": clip, "schedule": {"steps": 1, "batch_size": 1}}
    tree["schedule"] |= {"warmup_steps": 0}
    identity = TrainJob.model_validate({**tree, "run": {"path": "x"}}).identity()
    assert not {"classify"} & identity.keys()
    assert not {"num_classes"} & identity["student"].keys()
    assert not {"optimizer", "momentum"} & identity["schedule"].keys()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_timm_and_evaluate_take_the_model(folder: Path, tmp_path: Path, name: str) -> None:
    tasks = {"classification": [{"name": "digits", "data": str(labelled(folder, tmp_path))}]}
    student = {"architecture": f"timm:{name}"}
    outcome = train(classify_job(tmp_path, folder / "in", student=student, evaluation=tasks, **FRESH), None)
    assert outcome is not None
    (result,) = outcome.results
    state = load_file(outcome.model / "model.safetensors")
    loaded = timm.create_model(f"local-dir:{outcome.model}", pretrained=True).eval()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    config = timm.data.resolve_model_data_config(loaded)
    assert (tuple(config["input_size"]), config["interpolation"], config["crop_pct"]) == (
        (3, SIDE, SIDE),
        "bicubic",
        1.0,
    )
    files = {"architecture": outcome.model / "config.json", "weights": outcome.model / "model.safetensors"}
    model = {name: str(path) for name, path in files.items()}
    (again,) = evaluate(EvaluateJob.model_validate({"name": "again", "model": model, "tasks": tasks}))
    assert again.figures == result.figures
    assert again.num_images == 8
    transform = timm.data.create_transform(**config, is_training=False)
    images, labels = zip(*images_of(Path(tasks["classification"][0]["data"])), strict=True)
    with torch.no_grad():
        nearest = loaded(torch.stack([transform(image) for image in images])).topk(5).indices
    near = nearest == torch.tensor(labels)[:, None]
    expected = {"acc1": near[:, 0].double().mean().item(), "acc5": near.any(dim=1).double().mean().item()}
    assert result.figures == pytest.approx(expected, abs=1 / 8)  # a tie may fall the other way


def labelled(folder: Path, tmp_path: Path) -> Path:
    """The digits that have a class, in a tar."""
    with (folder / "in/00000.tar").open("rb") as file:
        members = dict(read_members(file))
    keys = [name.removesuffix(".cls") for name in members if name.endswith(".cls")]
    names = [f"{key}.{ext}" for key in keys for ext in ("cls", "png")]
    return write_tar(tmp_path / "labelled.tar", [(name, members[name]) for name in names])


def images_of(shard: Path) -> Iterator[tuple[Image.Image, int]]:
    with shard.open("rb") as file:
        members = dict(read_members(file))
    for name, data in members.items():
        if name.endswith(".png"):
            yield decode(data, 10**6), int(members[name.replace("png", "cls")])


MIXED = {"mixup": {"div_by": 2, "p": 0.5}, "cutmix": {"p": 0.5}, "num_views": 4}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More digits than the window is wide, all with a class, in views that may be mixed with earlier ones."""
    folder = tmp_path_factory.mktemp("mixed")
    write_digits(folder / "in", samples_per_shard=70)
    run(job_of(folder, augmentation=MIXED), Silent())
    return folder / "out"


def test_mixed_views_are_replayed_with_both_labels(mixed: Path, tmp_path: Path) -> None:
    changes = {"distillation": {"weight": 0.5}, "data": {"view": "sequential", "shuffle_buffer": 9}}
    job = classify_job(tmp_path, mixed, schedule={"batch_size": 32}, **changes)
    recipe, num_mixed = open_training_set(job).recipe, 0
    made = list(read_reinforced(mixed / "00000.tar", recipe=recipe).values())
    places = {sample.key: place for place, sample in enumerate(made)}
    loader = trainer_of(job)._loader
    for batch in islice(loader, 4):  # each sample of the first epoch, and more
        for row, key in enumerate(batch.keys):
            sample = made[places[key]]
            if np.array_equal(batch.images_BHWC[row].numpy(), replayed(sample, sample.views[0], made, recipe)):
                view = sample.views[0]
            else:
                view = sample.views[1]  # the second epoch's
                assert np.array_equal(batch.images_BHWC[row].numpy(), replayed(sample, view, made, recipe))
            labels, shares = (batch.columns[Column(name, IMAGE)][row] for name in (LABEL_INDICES, LABEL_VALUES))
            pair = pair_of(view)
            num_mixed += pair is not None
            other = sample if pair is None else made[pair.id2]
            assert labels.tolist() == [int(one.members["cls"]) for one in (sample, other)]
            drawn = dict(view)
            patch = np.zeros((SIDE, SIDE), bool)
            if "cutmix" in drawn:
                _, top, left, bottom, right = drawn["cutmix"]
                patch[top:bottom, left:right] = True
            own = drawn.get("mixup", 1.0) * (1 - patch.mean())
            assert shares.tolist() == pytest.approx([own, 1 - own], abs=1e-6)
    assert num_mixed > 20


def replayed(sample: Any, view: Any, made: list[Any], recipe: Recipe) -> np.ndarray:
    pair = pair_of(view)
    pairs = {pair.id2: decode(made[pair.id2].members["png"], 10**6)} if pair else {}
    return render(decode(sample.members["png"], 10**6), [view], recipe, pairs=pairs)[0]


def test_a_run_on_mixed_views_goes_on_bit_for_bit(mixed: Path, tmp_path: Path) -> None:
    """In the middle of a shard: what is mixed with the first samples lies before them."""
    changes = {"data": {"shuffle_buffer": 8}, "distillation": {"weight": 0.5}, "run": {"checkpoint_every": 3}}
    train(classify_job(tmp_path, mixed, **changes), None)
    killed = classify_job(tmp_path / "killed", mixed, **changes)
    with pytest.raises(KeyboardInterrupt):
        train(killed, Killed(after=4))
    train(killed, None)
    assert curve(tmp_path / "killed/run") == curve(tmp_path / "run")


def refusal(job: TrainJob) -> str:
    with pytest.raises(PipelineError) as caught:
        take_step(trainer_of(job))
    return str(caught.value)


def test_data_that_do_not_fit_are_told(folder: Path, tmp_path: Path) -> None:
    assert "holds no class probabilities" in refusal(classify_job(tmp_path, reinforced_without(folder, tmp_path)))
    assert "which tells 10 classes apart" in refusal(classify_job(tmp_path, folder / "out", student={"num_classes": 9}))
    few = merged(FRESH, {"student": {"num_classes": 1}, "data": {"max_skipped": 0.2}})
    assert "bad cls" in refusal(classify_job(tmp_path, folder / "in", **few))
    fresh = merged(FRESH, {"distillation": {"weight": 0.5}})
    assert "nobody stored what teachers say" in refusal(classify_job(tmp_path, folder / "in", **fresh))
    with pytest.raises(ConfigError, match="a classifier has no texts to retrieve"):
        check_tasks(Tasks.model_validate({"retrieval": [{"name": "r", "data": "x"}]}), NUM_CLASSES)


def reinforced_without(folder: Path, tmp_path: Path) -> Path:
    """The plain digits with views, but without what classifiers say of them."""
    made = read_reinforced(folder / "out/00000.tar")
    members = [(f"{key}.{ext}", sample.members[ext]) for key, sample in made.items() for ext in ("png", "paug.json")]
    arrays = io.BytesIO()
    np.savez(arrays, image_emb_dino=np.ones((3, 4), np.float32))
    members += [(f"{key}.npz", arrays.getvalue()) for key in made]
    return write_tar(tmp_path / "without/0.tar", sorted(members))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": {"architecture": "RN50"}}, "student.architecture timm:NAME"),
        ({"student": {"num_classes": None}}, "student.num_classes"),
        ({"objective": "clip"}, "student.architecture timm:NAME"),
    ],
)
def test_a_classifier_is_a_network_of_timm_with_classes(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classify_job(tmp_path, tmp_path, **changes)
