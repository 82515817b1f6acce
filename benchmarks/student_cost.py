"""What reinforcement costs the student: a training step and the loader, against plain training and online teachers.

    python benchmarks/student_cost.py [--quick]

The data are those of the paper's recipe: 640 × 480 JPEGs, 30 views and 1,536 dims in bfloat16. One thread, CPU time;
median over rounds in which both sides take their turn. The quick form leaves out MobileCLIP2-S0, whose step takes
seconds, and the teachers in memory.
"""

import argparse
import gzip
import io
import tempfile
from collections.abc import Callable
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
from measure import cpu_seconds, figure, paired
from reinforced import AUGMENTATION, DIMS, reinforced

from dr_pipeline.codecs.archive import read_tensors
from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Output
from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.shard_io import read_samples, write_samples
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_teacher
from dr_pipeline.training.data.loader import Loader
from dr_pipeline.training.data.rendering import views_for
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.training.distributed import Rank
from dr_pipeline.training.trainer import Trainer
from dr_pipeline.views.recipe import Recipe

NUM_SAMPLES = 64
TEACHERS = [{"name": f"teacher {index}", "dim": dim, "logit_scale": 60 + 10 * index} for index, dim in enumerate(DIMS)]
DEMO = "package://dr_pipeline.demo/scene_student.json"
MOBILE = "MobileCLIP2-S0"
PLAIN = {"distillation": {"weight": 0.0}}
ALT_TEXTS_ALONE = {"captions": {"synthetic_weight": 0.0}}
CPU = torch.device("cpu")


def write_dataset(folder: Path, num_samples: int = NUM_SAMPLES) -> None:
    """One shard."""
    output = Output(path=str(folder))
    samples = map(reinforced, range(num_samples))
    write_samples(
        folder / "00000.tar", (Sample(one.key, layout.encode(one, output, Recipe(AUGMENTATION))) for one in samples)
    )


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


def compare(metric: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 5) -> None:
    """Print the CPU seconds of both."""
    figure(metric, *paired(lambda: cpu_seconds(ours), lambda: cpu_seconds(theirs), rounds))


def stepper(job: TrainJob, teachers: Ensemble | None = None) -> Callable[[], object]:
    """A step on a batch that is loaded already."""
    dataset = open_training_set(job)
    trainer = Trainer(job, dataset, Rank(), teachers)
    network = trainer.network
    views = views_for(job, dataset.recipe, network.image.image_size, CPU)
    loader = Loader(job, dataset, network.tokenizer, views, job.schedule.batch_size, Rank())
    batch = next(iter(loader))
    return lambda: trainer.finish(trainer.launch(batch))


def reader(job: TrainJob, renders: torch.device = CPU) -> Callable[[], object]:
    """All samples once at 224 px, from bytes to tensors as they are sent; on a GPU nothing is rendered."""
    dataset = open_training_set(job)
    words = Trainer(job, dataset, Rank(), None).network.tokenizer
    views = views_for(job, dataset.recipe, 224, renders)
    batches = iter(Loader(job, dataset, words, views, job.schedule.batch_size, Rank()))
    return lambda: [ForkingPickler.dumps(batch) for batch in islice(batches, NUM_SAMPLES // job.schedule.batch_size)]


def compare_steps(folder: Path, label: str, architecture: str, batch_size: int) -> None:
    """Distillation against plain training."""
    compare(
        f"seconds a step, distillation ÷ plain, both captions, {label}",
        stepper(make_job(folder, architecture, batch_size)),
        stepper(make_job(folder, architecture, batch_size, **PLAIN)),
    )
    compare(
        f"seconds a step, distillation with synthetic captions ÷ plain without, {label}",
        stepper(make_job(folder, architecture, batch_size)),
        stepper(make_job(folder, architecture, batch_size, **PLAIN, **ALT_TEXTS_ALONE)),
    )


def compare_with_teachers_in_memory(folder: Path) -> None:
    """Stored embeddings against those that two teachers make at every step."""
    cards = [
        TeacherCard(
            name=one["name"].replace(" ", "_"),
            use="dr_pipeline.models.open_clip:OpenClipTeacher",
            options={"model": "ViT-L-14", "weights": "random"},
        )
        for one in TEACHERS
    ]
    ensemble = Ensemble([(card.name, load_teacher(card, CPU)) for card in cards], CPU)
    online = {"online_teachers": [card.model_dump(mode="json") for card in cards]}
    compare(
        f"seconds a step, stored ÷ online distillation by two ViT-L/14, {MOBILE}",
        stepper(make_job(folder, MOBILE, 8)),
        stepper(make_job(folder, MOBILE, 8, distillation=online), ensemble),
    )


def compare_archives(folder: Path) -> None:
    """The tensors of all samples' inflated embeddings, as views on them, against torch.load on each."""
    with (folder / "00000.tar").open("rb") as stream:
        archives = [gzip.decompress(sample.members["pth.gz"]) for sample in read_samples(stream)]
    milliseconds = 1000 / len(archives)

    def load(data: bytes) -> object:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

    times = [
        lambda read=read: milliseconds * cpu_seconds(lambda: [read(data) for data in archives])
        for read in (read_tensors, load)
    ]
    figure("reading a sample's tensors, CPU-ms, views ÷ torch.load", *paired(*times, rounds=25))


def compare_loading(folder: Path) -> None:
    """Samples a second, against plain training's images and alt-texts."""
    theirs = reader(make_job(folder, DEMO, 32, **PLAIN, **ALT_TEXTS_ALONE))
    for label, captions in (("alt-texts", ALT_TEXTS_ALONE), ("alt-texts and synthetic captions", {})):
        ours = reader(make_job(folder, DEMO, 32, **captions))
        per_second = [lambda read=read: NUM_SAMPLES / cpu_seconds(read) for read in (ours, theirs)]
        figure(f"samples loaded a CPU second, reinforced ÷ plain, {label}", *paired(*per_second, rounds=25))
    crops = reader(make_job(folder, DEMO, 32), torch.device("cuda"))
    per_second = [lambda read=read: NUM_SAMPLES / cpu_seconds(read) for read in (crops, ours)]
    figure("samples loaded a CPU second, crops for a GPU to render ÷ rendered", *paired(*per_second, rounds=25))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what reinforcement costs the student.")
    parser.add_argument("--quick", action="store_true", help="the demo's student alone, no teachers in memory")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder)
        compare_archives(folder)
        compare_loading(folder)
        compare_steps(folder, "demo", DEMO, 64)
        if not quick:
            compare_steps(folder, MOBILE, MOBILE, 8)
            compare_with_teachers_in_memory(folder)


if __name__ == "__main__":
    main()
