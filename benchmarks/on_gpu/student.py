"""The student's step with its data in memory and from shards, against open_clip's trainer's step of the same network.

open_clip trains in torch's own layout and lets cuDNN search for the fastest convolutions; both layouts are measured.
Steps are launched one after the other, as both trainers do, and the device is waited for behind several.
"""

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from open_clip.loss import ClipLoss
from student_cost import ALT_TEXTS_ALONE, CPU, DEMO, MOBILE, PLAIN, make_job, write_dataset
from torch import nn
from torch.autograd import DeviceType

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import TEXT
from dr_pipeline.networks.architecture import build, read_architecture
from dr_pipeline.networks.depthwise import DepthwiseConv2d, weight_gradient
from dr_pipeline.networks.device import autocast
from dr_pipeline.networks.images import normalise
from dr_pipeline.networks.network import Network
from dr_pipeline.training.data.batch import Batch
from dr_pipeline.training.data.loader import Loader
from dr_pipeline.training.data.rendering import views_for
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.training.distributed import Rank
from dr_pipeline.training.network import build_student
from dr_pipeline.training.trainer import Trainer
from on_gpu.bench import Bench

_SHARDS = 28
_STEPS_IN_A_ROW = 3
_LARGEST_KERNELS = 4
_DEPTHWISE = {
    (64, 1, 128, 3, 2): 1,
    (64, 1, 64, 3, 1): 2,
    (64, 1, 64, 7, 1): 2,
    (64, 2, 64, 7, 2): 1,
    (128, 1, 32, 1, 1): 6,
    (128, 1, 32, 3, 1): 6,
    (128, 1, 32, 7, 1): 6,
    (256, 1, 16, 3, 1): 10,
    (256, 1, 16, 7, 1): 10,
    (512, 1, 8, 7, 1): 3,
}
"""Most of the depthwise convolutions of MobileCLIP2-S0: (channels, outputs of each, input's side, taps' side, stride) →
how many it has."""

Step = Callable[[], object]


def measure(bench: Bench) -> None:
    """Print samples a second, what a step launches, and milliseconds of weight gradients."""
    batch_size = bench.size(512, 8)
    with bench.attempt("weight gradients"):
        _weight_gradients(bench, bench.size(512, 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder, bench.size(24, 4))
        for number in range(1, bench.size(_SHARDS, 1)):
            shutil.copy(folder / "00000.tar", folder / f"{number:05d}.tar")
        architecture = bench.size(MOBILE, DEMO)
        in_memory = _compare(bench, folder, architecture, batch_size)
        with bench.attempt("from shards"):
            _from_shards(bench, make_job(folder, architecture, batch_size), in_memory)
        if not bench.dry:
            _compare(bench, folder, "MobileCLIP2-B", batch_size)


def _compare(bench: Bench, folder: Path, architecture: str, batch_size: int) -> float:
    """Print the steps of an architecture, all on one batch in memory → samples a second of the reinforced one."""
    job = make_job(folder, architecture, batch_size)
    plain = make_job(folder, architecture, batch_size, **PLAIN, **ALT_TEXTS_ALONE)
    name = Path(architecture).stem
    batches = {both.captions.synthetic_weight: _batch(both) for both in (plain, job)}
    theirs, ours = 0.0, 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        label = f"{name}, open_clip's step, {str(layout).removeprefix('torch.')}"
        with bench.attempt(label), torch.backends.cudnn.flags(enabled=True, benchmark=True):  # as it sets it
            step = plain_step(bench, job, batches[1.0], layout)
            rate = _rate(bench, step, batch_size)
            bench.figure(f"{label}, one caption", rate, "samples/s")
            theirs = max(theirs, rate)
            with bench.attempt(f"{label}: profile"):
                _profile(bench, label, step)
            del step
    for label, one in (("plain, one caption", plain), ("reinforced, two captions", job)):
        with bench.attempt(f"{name}, {label}"):
            trainer = Trainer(one, open_training_set(one), Rank(), None)
            step = partial(trainer.launch, batches[one.captions.synthetic_weight])
            ours = _rate(bench, step, batch_size)
            bench.figure(f"{name}, {label}, in memory", ours, "samples/s", theirs)
            with bench.attempt(f"{name}, {label}: profile"):
                _profile(bench, f"{name}, {label}", step)
            if one is plain:
                _change_convolutions(bench, f"{name}, {label}", trainer, step, batch_size)
            del trainer, step
    return ours


def _change_convolutions(bench: Bench, label: str, trainer: Trainer, step: Step, batch_size: int) -> None:
    """Print the step with cuDNN's search for the fastest convolutions, then without the own weight gradients."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        bench.figure(f"{label}, cuDNN's search", _rate(bench, step, batch_size), "samples/s")
    own = [part for part in trainer.network.module.modules() if isinstance(part, DepthwiseConv2d)]
    for part in own:
        part.__class__ = nn.Conv2d
    if own:
        bench.figure(f"{label}, cuDNN's weight gradients", _rate(bench, step, batch_size), "samples/s")


def plain_step(bench: Bench, job: TrainJob, batch: Batch, layout: torch.memory_format) -> Step:
    """What open_clip's trainer does a step: bfloat16 autocast, its loss, AdamW; images are on the device already."""
    module: Any = build(read_architecture(job.student.architecture, "random"), job.seed).to(bench.device)
    module = module.to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.2)
    loss_of = ClipLoss()
    images_BHWC = batch.images_BHWC.to(bench.device)
    spec = build_student(job, CPU).image
    images_BCHW = normalise(images_BHWC.permute(0, 3, 1, 2).float(), spec).contiguous(memory_format=layout)
    tokens_BL = batch.tokens_BL[TEXT].to(bench.device)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(bench.device, "auto"):
            image_emb, text_emb, logit_scale = module(images_BCHW, tokens_BL)[:3]
            loss = loss_of(image_emb, text_emb, logit_scale)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            module.logit_scale.clamp_(0, 4.6052)

    return step


def _batch(job: TrainJob) -> Batch:
    """A batch that is rendered already."""
    batch = next(iter(_loader(job, build_student(job, CPU), CPU)))
    return batch.pin_memory() if torch.cuda.is_available() else batch


def _loader(job: TrainJob, network: Network, renders: torch.device) -> Loader:
    training_set = open_training_set(job)
    views = views_for(job, training_set.recipe, network.image.image_size, renders)
    return Loader(job, training_set, network.tokenizer, views, job.schedule.batch_size, Rank())


def _rate(bench: Bench, step: Step, batch_size: int) -> float:
    """Samples a second of steps in a row."""
    num_steps = bench.size(_STEPS_IN_A_ROW, 1)

    def steps() -> None:
        for _ in range(num_steps):
            step()

    return num_steps * batch_size / bench.seconds(steps)


def _profile(bench: Bench, label: str, step: Step) -> None:
    """Print how many kernels a step launches, the device's time for them, and whose it is."""
    on_device = {"cuda": torch.profiler.ProfilerActivity.CUDA, "cpu": torch.profiler.ProfilerActivity.CPU}
    with torch.profiler.profile(activities=[on_device[bench.device.type]]) as profile:
        step()
        bench.wait()
    kind = DeviceType.CUDA if bench.device.type == "cuda" else DeviceType.CPU
    kernels = [event for event in profile.events() if event.device_type == kind and not event.is_user_annotation]
    seconds = Counter[str]()
    for event in kernels:
        seconds[event.name] += event.time_range.elapsed_us() / 1e6
    total = seconds.total()
    bench.figure(f"{label}: kernels of a step", len(kernels), "")
    bench.figure(f"{label}: their time", 1000 * total, "ms")
    bench.figure(f"{label}: in weight gradients of convolutions", _share(seconds, ("wgrad", "_sum_rows")), "")
    for name, spent in seconds.most_common(_LARGEST_KERNELS):
        bench.figure(f"{label}: in {name}"[:160], spent / total, "")


def _share(seconds: Counter[str], words: Iterable[str]) -> float:
    chosen = [spent for name, spent in seconds.items() if any(word in name for word in words)]
    return sum(chosen) / seconds.total()


def _weight_gradients(bench: Bench, batch_size: int) -> None:
    """Print milliseconds of each of MobileCLIP2-S0's depthwise convolutions, the own kernel's and cuDNN's."""
    ours = theirs = 0.0
    for (channels, multiplier, side, size, stride), count in bench.size(_DEPTHWISE, {(8, 1, 8, 3, 1): 1}).items():
        how = ([stride] * 2, [size // 2] * 2, [1, 1])
        input_BCHW = _random(bench, batch_size, channels, side)
        gradient_BOYX = _random(bench, batch_size, channels * multiplier, -(-side // stride))
        weight_O1KK = torch.zeros(channels * multiplier, 1, size, size, dtype=torch.bfloat16, device=bench.device)
        own = 1000 * bench.seconds(lambda: weight_gradient(input_BCHW, gradient_BOYX, [size] * 2, *how))  # noqa: B023
        torchs = 1000 * bench.seconds(
            lambda: torch.ops.aten.convolution_backward(
                gradient_BOYX, input_BCHW, weight_O1KK, None, *how, False, [0, 0], channels, [False, True, False]  # noqa: B023
            )
        )  # fmt: skip
        name = f"weight gradient, {size} × {size} of {channels} × {multiplier} channels, {side} px, stride {stride}"
        bench.figure(name, own, "ms", torchs)
        ours, theirs = ours + count * own, theirs + count * torchs
    bench.figure("weight gradients of MobileCLIP2-S0's depthwise convolutions, most of them", ours, "ms", theirs)


def _random(bench: Bench, batch_size: int, channels: int, side: int) -> torch.Tensor:
    values_BCHW = torch.randn(batch_size, channels, side, side, dtype=torch.bfloat16, device=bench.device)
    return values_BCHW.contiguous(memory_format=torch.channels_last)


def _from_shards(bench: Bench, job: TrainJob, in_memory: float) -> None:
    """Print what the loaders give with nobody to train, then the steps that they feed."""
    loaders = bench.size(14, 0)
    warm, timed = bench.size((2 * loaders, 2 * loaders), (1, 1))
    changes = {
        "data": job.data.model_copy(update={"workers": loaders}),
        "schedule": job.schedule.model_copy(update={"steps": warm + timed}),
    }
    job = job.model_copy(update=changes)
    trainer = Trainer(job, open_training_set(job), Rank(), None)
    rendered = _loaded(bench, job, iter(_loader(job, trainer.network, CPU)), "which render")
    _loaded(bench, job, iter(_loader(job, trainer.network, bench.device)), "which cut crops for the GPU", rendered)
    for record in trainer.steps(lambda step: step == warm):
        if record.step == warm:
            trainer._rates = type(trainer._rates)()
    bench.figure(f"reinforced, {loaders} loaders", record.samples_per_second, "samples/s", in_memory)
    bench.figure(f"part of a step that waits for {loaders} loaders", record.wait_fraction, "")


def _loaded(bench: Bench, job: TrainJob, batches: Iterator[Batch], label: str, baseline: float | None = None) -> float:
    """Print what the loaders give with nobody to train, and how long a batch takes to the GPU → samples a second."""
    loaders, num_batches = job.data.workers, job.schedule.steps // 2
    for _ in range(num_batches):
        next(batches)
    begun = time.perf_counter()
    for _ in range(num_batches):
        batch = next(batches)
    rate = num_batches * job.schedule.batch_size / (time.perf_counter() - begun)
    bench.figure(f"{loaders} loaders with nobody to train, {label}", rate, "samples/s", baseline)
    bench.figure(f"one of {loaders} loaders, {label}", rate / max(1, loaders), "samples/s")
    milliseconds = 1000 * bench.seconds(lambda: batch.to(bench.device))
    bench.figure(f"a batch of loaders, {label}, to its views on the GPU", milliseconds, "ms")
    return rate
