"""The student's step with its data in memory and from shards, against a plain trainer's of the same network."""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from open_clip.loss import ClipLoss
from student_cost import ALT_TEXTS_ALONE, DEMO, MOBILE, PLAIN, make_job, write_dataset

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import TEXT
from dr_pipeline.networks.device import autocast
from dr_pipeline.networks.images import normalise
from dr_pipeline.training.data.batch import Batch
from dr_pipeline.training.data.loader import Loader
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.training.distributed import Rank
from dr_pipeline.training.network import build_student
from dr_pipeline.training.trainer import Trainer
from on_gpu.bench import Bench

_SHARDS = 28


def measure(bench: Bench) -> None:
    """Print samples a second."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder, bench.size(24, 4))
        for number in range(1, bench.size(_SHARDS, 1)):
            shutil.copy(folder / "00000.tar", folder / f"{number:05d}.tar")
        batch_size = bench.size(512, 8)
        architecture = bench.size(MOBILE, DEMO)
        job = make_job(folder, architecture, batch_size)
        plain = make_job(folder, architecture, batch_size, **PLAIN, **ALT_TEXTS_ALONE)
        batch = _batch(job)
        rate = 0.0
        with bench.attempt("open_clip's step"):
            rate = _steps(bench, plain_step(bench, job, batch), batch_size)
            bench.figure("open_clip's own step, one caption, data in memory", rate, "samples/s")
        in_memory = 0.0
        for label, one in (("plain, one caption", plain), ("reinforced, two captions", job)):
            with bench.attempt(label):
                step = partial(Trainer(one, open_training_set(one), Rank(), None).train_on, _batch(one))
                in_memory = _steps(bench, step, batch_size)
                bench.figure(f"{label}, data in memory", in_memory, "samples/s", rate)
                del step
        with bench.attempt("from shards"):
            _from_shards(bench, job, in_memory)


def plain_step(bench: Bench, job: TrainJob, batch: Batch) -> Callable[[], object]:
    """What open_clip's trainer does a step: bfloat16 autocast, its loss, AdamW; images are on the device already."""
    network = build_student(job, bench.device)
    module: Any = network.module
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.2)
    loss_of = ClipLoss()
    images_BHWC = batch.images_BHWC.to(bench.device)
    images_BCHW = normalise(images_BHWC.permute(0, 3, 1, 2).float(), network.image)
    tokens_BL = batch.tokens_BL[TEXT].to(bench.device)

    def step() -> float:
        optimizer.zero_grad()
        with autocast(bench.device, "auto"):
            image_emb, text_emb, logit_scale = module(images_BCHW, tokens_BL)[:3]
            loss = loss_of(image_emb, text_emb, logit_scale)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            module.logit_scale.clamp_(0, 4.6052)
        return float(loss.detach())

    return step


def _batch(job: TrainJob) -> Batch:
    network = build_student(job, torch.device("cpu"))
    loader = Loader(
        job, open_training_set(job), network.tokenizer, network.image.image_size, job.schedule.batch_size, Rank()
    )
    return next(iter(loader)).pin_memory() if torch.cuda.is_available() else next(iter(loader))


def _steps(bench: Bench, step: Callable[[], object], batch_size: int) -> float:
    return batch_size / bench.seconds(step)


def _from_shards(bench: Bench, job: TrainJob, in_memory: float) -> None:
    loaders = bench.size(14, 0)
    job = job.model_copy(update={"data": job.data.model_copy(update={"workers": loaders})})
    trainer = Trainer(job, open_training_set(job), Rank(), None)
    for _ in range(bench.size(5, 1)):
        trainer.take_step()
    trainer._rates = type(trainer._rates)()
    for _ in range(bench.size(10, 1)):
        record = trainer.take_step()
    bench.figure(f"reinforced, {loaders} loaders", record.samples_per_second, "samples/s", in_memory)
    bench.figure(f"part of a step that waits for {loaders} loaders", record.wait_fraction, "")
