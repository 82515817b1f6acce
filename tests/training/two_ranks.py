"""One step of five objectives on a global batch that any number of ranks share; torchrun runs this file."""

import json
import sys
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from dr_pipeline.cli.exit import end_with
from dr_pipeline.config.objective import Distillation
from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import IMAGE, TEXT, Column
from dr_pipeline.training.data.batch import Batch
from dr_pipeline.training.distributed import Rank, joined_ranks
from dr_pipeline.training.losses import (
    Embeddings,
    KnownClasses,
    Rows,
    affinity_loss,
    caption_loss,
    class_divergence,
    clip_loss,
    count_tokens,
    total_loss,
)
from dr_pipeline.training.network import build_student
from dr_pipeline.training.objective import ClipObjective, Comparison
from tests.training.conftest import CLIP, WORDS

TEACHERS = {"a": 20.0, "b": 7.0}
DIMS = {"a": 3, "b": 5}
OBJECTIVES = ("clip", "distillation", "affinity", "classify", "coca")
SIGLIP = {**CLIP, "custom_text": True, "init_logit_bias": -10.0}
GLOBAL_BATCH, VOCABULARY, LENGTH, PAD = 6, 7, 4, 0


class Towers(torch.nn.Module):
    """Two linear towers, a linear captioner and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = torch.nn.Linear(8, 4), torch.nn.Linear(6, 4)
        self.decoder = torch.nn.Linear(8, LENGTH * VOCABULARY)
        self.logit_scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = self.decoder(images).unflatten(1, (LENGTH, VOCABULARY))
        return normalize(self.image(images)), normalize(self.text(texts)), self.logit_scale.exp(), logits


def global_batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)

    teachers = {
        f"{name} {side}": normalize(torch.randn(GLOBAL_BATCH, dim))
        for side in ("images", "texts")
        for name, dim in DIMS.items()
    }
    labels = torch.randint(1, VOCABULARY, (GLOBAL_BATCH, LENGTH))
    labels[:2, 1:] = PAD  # the ranks' shares differ in how many tokens count
    return {
        "images": torch.randn(GLOBAL_BATCH, 8),
        "texts": torch.randn(GLOBAL_BATCH, 6),
        "labels": labels,
        "values": torch.tensor([[0.6, 0.3]] * GLOBAL_BATCH),
        "classes": torch.randint(0, LENGTH * VOCABULARY // 2, (GLOBAL_BATCH, 2)) * 2 + torch.tensor([0, 1]),
        **teachers,
    }


def objective(name: str, share: dict[str, torch.Tensor], towers: torch.nn.Module, rank: Rank) -> torch.Tensor:
    images, texts, logit_scale, logits = towers(share["images"], share["texts"])

    def gathered(images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor | float) -> Embeddings:
        whole = (rank.gather(images), rank.gather(texts))
        return Embeddings(images, texts, logit_scale, *whole, first=rank.index * len(images))

    student = gathered(images, texts, logit_scale)
    # Every parameter takes part, as DistributedDataParallel asks.
    unused = 0.0 * (logits.sum() + logit_scale)
    if name == "clip":
        return clip_loss(student) + unused
    if name == "classify":
        classes = KnownClasses(share["values"], share["classes"])
        return class_divergence(logits.flatten(1), classes) + 0.0 * (images.sum() + texts.sum() + logit_scale)
    if name == "affinity":
        teacher = share["b images"]
        first = student.first
        own, theirs = (Rows(images, student.all_images_GD, first), Rows(teacher, rank.gather(teacher), first))
        return affinity_loss(own, theirs, TEACHERS["b"]) + unused + 0.0 * texts.sum()
    if name == "coca":
        num_tokens = rank.mean(count_tokens(share["labels"], PAD))
        return 2 * caption_loss(logits, share["labels"], PAD, num_tokens) + clip_loss(student)
    teachers = [gathered(share[f"{name} images"], share[f"{name} texts"], scale) for name, scale in TEACHERS.items()]
    return 1.5 * total_loss(student, teachers, Distillation(weight=0.7)) + unused


def step(name: str, rank: Rank) -> dict[str, list[float]]:
    """The objective's value, the mean over ranks, and the gradient of every parameter on this rank."""
    torch.set_default_dtype(torch.float64)
    batch = global_batch()
    size = GLOBAL_BATCH // rank.world_size
    share = {key: values[rank.index * size :][:size] for key, values in batch.items()}
    torch.manual_seed(1)
    towers = Towers()
    wrapped = DistributedDataParallel(towers) if rank.world_size > 1 else towers
    loss = objective(name, share, wrapped, rank)
    loss.backward()
    gradients = {key: values.grad.flatten().tolist() for key, values in towers.named_parameters()}
    return {"loss": [rank.mean(loss).item()], **gradients}


def siglip_steps(rank: Rank) -> dict[str, list[float]]:
    """Two steps of the trainer's objective with a network that has a logit bias, as `step` gives one."""
    torch.manual_seed(0)
    size = GLOBAL_BATCH // rank.world_size
    share = slice(rank.index * size, (rank.index + 1) * size)
    images_BHWC = torch.randint(0, 256, (GLOBAL_BATCH, 32, 32, 3), dtype=torch.uint8)[share]
    tokens_BL = torch.randint(1, 304, (GLOBAL_BATCH, 16))[share]
    teacher_BD = normalize(torch.randn(GLOBAL_BATCH, DIMS["a"]))[share]
    columns = {Column("a", of): teacher_BD for of in (IMAGE, TEXT)}
    batch = Batch([], images_BHWC, {TEXT: tokens_BL}, columns, None, {}, {})
    with tempfile.NamedTemporaryFile("w", suffix=".json") as architecture:
        json.dump({"model_cfg": SIGLIP}, architecture)
        architecture.flush()
        job = tiny_job(architecture.name)
        network = build_student(job, torch.device("cpu"))
    objective: torch.nn.Module = ClipObjective(job, network, Comparison({"a": TEACHERS["a"]}), rank)
    wrapped = DistributedDataParallel(objective) if rank.world_size > 1 else objective
    for _ in range(2):  # the second finds out whether the first has used every parameter
        loss = wrapped(batch)[0]
        loss.backward()
    trained = {key: values for key, values in network.module.named_parameters() if values.requires_grad}
    return {"loss": [rank.mean(loss).item()]} | {key: values.grad.flatten().tolist() for key, values in trained.items()}


def tiny_job(architecture: str) -> TrainJob:
    """A job that distils into this architecture; its shards are never read."""
    return TrainJob.model_validate(
        {
            "name": "tiny",
            "data": {"shards": "none"},
            "student": {"architecture": architecture, "tokenizer": WORDS},
            "schedule": {"steps": 2, "batch_size": GLOBAL_BATCH, "warmup_steps": 1, "learning_rate": 1e-3},
            "captions": {"ground_truth_weight": 1.5},
            "distillation": {"weight": 0.7},
            "run": {"path": "none", "precision": "float32"},
        }
    )


def main(folder: Path) -> int:
    with joined_ranks() as rank:
        told = rank.collect({"from": rank.index, "é": [1, None] * (1 + 9 * rank.index)})
        results = {"rank": [rank.index, rank.world_size, rank.local], "told": told}
        results |= {name: step(name, rank) for name in OBJECTIVES}
        torch.set_default_dtype(torch.float32)
        results["siglip"] = siglip_steps(rank)
        (folder / f"{rank.index}.json").write_text(json.dumps(results))
    return 0


if __name__ == "__main__":
    end_with(lambda: main(Path(sys.argv[1])))
