"""What reinforcement costs the student: a training step and the loader, against plain training and online teachers.

    python benchmarks/student_cost.py [--rounds 5]

Prints one JSON line a figure. Each is the median over rounds in which both sides are timed in turn, in one process with
one thread. The data are those of the paper's recipe: 640 × 480 JPEGs, 30 views and 1,536 dims in bfloat16.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from dr_pipeline.config import Augmentation, Output, TeacherCard
from dr_pipeline.demo.painting import encode_jpeg, paint
from dr_pipeline.demo.scenes import draw_truth
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_teacher
from dr_pipeline.records import Reinforcement, Sample
from dr_pipeline.shards import layout
from dr_pipeline.shards.tar import DigestStream, TarWriter
from dr_pipeline.student.config import TrainJob
from dr_pipeline.student.data.dataset import open_dataset
from dr_pipeline.student.data.loader import Loader
from dr_pipeline.student.distributed import Rank
from dr_pipeline.student.trainer import Trainer
from dr_pipeline.views.params import draw
from dr_pipeline.views.seeding import Stream

NUM_SAMPLES = 64
DIMS = (768, 768)
TEACHERS = [{"name": f"teacher {index}", "dim": dim, "logit_scale": 60 + 10 * index} for index, dim in enumerate(DIMS)]
PLAIN = {"weight": 0.0}
CPU = torch.device("cpu")


def write_dataset(folder: Path) -> None:
    """One shard of the paper's recipe: real JPEGs and captions, embeddings of the right size that mean nothing."""
    augmentation, rng = Augmentation(), np.random.default_rng(0)
    with (folder / "00000.tar").open("wb") as file:
        writer = TarWriter(DigestStream(file))
        for index in range(NUM_SAMPLES):
            stream, key = Stream(0, "scene", index), f"{index:06d}"
            truth = draw_truth(stream)
            jpeg = encode_jpeg(paint(truth, 640, 480, stream), quality=90)
            caption = f"a {truth.main.texture} {truth.main.name} on a {truth.surface} {truth.background} background"
            synthetic = {"syn_text": [caption] * 5}
            made = Reinforcement(
                views=draw(640, 480, augmentation, 0, key),
                synthetic=synthetic,
                image_emb_ND=unit(rng, augmentation.num_views),
                text_emb_TD=unit(rng, 1),
                synthetic_emb_TD={"syn_text": unit(rng, 5)},
            )
            sample = Sample(key, "jpg", jpeg, caption, {}, {})
            for name, data in layout.encode(sample, made, Output(path=str(folder)), augmentation):
                writer.add(name, data)
        writer.close()


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    slices = [rng.standard_normal((rows, dim)).astype(np.float32) for dim in DIMS]
    return np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in slices], axis=1)


def make_job(folder: Path, architecture: str, batch_size: int, **changes: Any) -> TrainJob:
    tree: dict[str, Any] = {
        "name": "cost",
        "data": {"shards": str(folder), "teachers": TEACHERS, "workers": 0, "shuffle_buffer": NUM_SAMPLES},
        "student": {"architecture": architecture},
        "schedule": {"steps": 1000, "batch_size": batch_size, "warmup_steps": 10},
        "run": {"path": str(folder / "run")},
        **changes,
    }
    if architecture.startswith("package://"):
        tree["student"]["tokenizer"] = "dr_pipeline.demo.tokenizer:WordTokenizer"
    return TrainJob.model_validate(tree)


def compare(metric: str, rounds: int, ours: Callable[[], object], others: Callable[[], object]) -> None:
    """Time both in turn and print the median of the ratios."""
    ours(), others()  # the first calls allocate
    pairs = [(timed(ours), timed(others)) for _ in range(rounds)]
    figures = {
        "value": median(ours for ours, _ in pairs),
        "baseline": median(others for _, others in pairs),
        "ratio": median(ours / others for ours, others in pairs),
    }
    print(json.dumps({"metric": metric, **{name: round(value, 4) for name, value in figures.items()}}), flush=True)


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def stepper(job: TrainJob, teachers: Ensemble | None = None) -> Callable[[], object]:
    """A step on a batch that is loaded already."""
    dataset = open_dataset(job)
    trainer = Trainer(job, dataset, Rank(), teachers)
    network = trainer.network
    loader = Loader(job, dataset, network.tokenizer, network.image.image_size, job.schedule.batch_size, Rank())
    batch = next(iter(loader))
    return lambda: trainer.train_on(batch)


def reader(job: TrainJob, num_batches: int) -> Callable[[], object]:
    """So many batches of 224 px, from bytes to tensors."""
    words = Trainer(job, open_dataset(job), Rank(), None).network.tokenizer
    batches = iter(Loader(job, open_dataset(job), words, 224, job.schedule.batch_size, Rank()))
    return lambda: list(islice(batches, num_batches))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what reinforcement costs the student.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    scene_student = "package://dr_pipeline.demo/scene_student.json"
    one_caption = {"captions": {"synthetic_weight": 0.0}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder)
        for label, architecture, size in (("demo", scene_student, 64), ("MobileCLIP2-S0", "MobileCLIP2-S0", 8)):
            plain = stepper(make_job(folder, architecture, size, distillation=PLAIN))
            compare(
                f"seconds a step, distillation ÷ plain, both captions, {label}",
                rounds,
                stepper(make_job(folder, architecture, size)),
                plain,
            )
            compare(
                f"seconds a step, distillation with synthetic captions ÷ plain without, {label}",
                rounds,
                stepper(make_job(folder, architecture, size)),
                stepper(make_job(folder, architecture, size, distillation=PLAIN, **one_caption)),
            )
        cards = [TeacherCard(name=one["name"].replace(" ", "_"), use="dr_pipeline.models.open_clip:OpenClipTeacher",
                             options={"model": "ViT-L-14", "weights": "random"}) for one in TEACHERS]  # fmt: skip
        ensemble = Ensemble([(card.name, load_teacher(card, CPU)) for card in cards], CPU)
        online = {"online_teachers": [card.model_dump(mode="json") for card in cards]}
        compare(
            "seconds a step, stored ÷ online distillation by two ViT-L/14, MobileCLIP2-S0",
            3,
            stepper(make_job(folder, "MobileCLIP2-S0", 8)),
            stepper(make_job(folder, "MobileCLIP2-S0", 8, distillation=online), ensemble),
        )
        for label, captions in (("one caption", one_caption), ("two captions", {})):
            compare(
                f"seconds to load 64 samples at 224 px, with embeddings ÷ images alone, {label}",
                3 * rounds,
                reader(make_job(folder, scene_student, 32, **captions), 2),
                reader(make_job(folder, scene_student, 32, distillation=PLAIN, **one_caption), 2),
            )


if __name__ == "__main__":
    main()
