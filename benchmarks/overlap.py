"""Whether host work and device work overlap: a whole run against the longer of the two, with a simulated accelerator.

    python benchmarks/overlap.py [--quick]

The accelerator works through what it is told in order, occupies no CPU and holds no lock of the interpreter. It is told
as a GPU is: a batch of a ViT-L/14 and a step of CoCa cost a replayed graph and some copies, and each launch some
microseconds of its thread's CPU time, with the lock held, after which the thread lets go of the lock and must get it
back. `--launches 300` launches the towers kernel by kernel. Who launches
too slowly leaves the accelerator idle. Reading, decoding, drawing and planning the views, tokenising, encoding and
writing are the real ones: 640 × 480 JPEGs, 30 views of 224 px, 5 captions, 1,536 dims; what a GPU computes costs the
host nothing (torch's meta device).

The bound is the longer of the device's time and the host's CPU time divided by its cores, both of the very run. Beside
it the same stages one after the other, on one thread.
"""

import argparse
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Self
from unittest import mock

import numpy as np
import torch
from measure import figure
from photos import write_shards

from dr_pipeline.config.augmentation import Augmentation
from dr_pipeline.config.cards import Sampling
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.plan import Plan, make_plan
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.models import ensemble
from dr_pipeline.models.protocol import TeacherSpec
from dr_pipeline.networks import device as devices
from dr_pipeline.networks.architecture import read_architecture
from dr_pipeline.networks.images import ImageSpec
from dr_pipeline.networks.tokenizer import Tokenizer, make_tokenizer
from dr_pipeline.reinforce import worker
from dr_pipeline.reinforce.rendering import DeviceRenderer, Launch
from dr_pipeline.reinforce.worker import Worker
from dr_pipeline.runners.local import LocalRunner
from dr_pipeline.views.seeding import Stream

CORES = os.cpu_count() or 1
META = torch.device("meta")
DEVICE_TO_HOST = (0.5, 1.0, 2.0)
NUM_VIEWS, NUM_CAPTIONS, NUM_WORDS = 30, 5, 25
CAPTION_BATCH = 64
"""Less than the 512 of a GPU, as these shards are shorter: a shard ends with what is left of a batch."""

LAUNCH_SECONDS = 8e-6
QUEUED_LAUNCHES = 1024
"""As many as CUDA takes before a launch waits."""
TOWER_LAUNCHES, STEP_LAUNCHES, RENDERING_LAUNCHES = 12, 4, 15
VIEWS_SHARE, CAPTIONS_SHARE, TEXTS_SHARE, RENDERING_SHARE = 0.80, 0.14, 0.05, 0.01
"""Parts of a sample's time on the device."""
MEAN = STD = (0.5, 0.5, 0.5)


class Accelerator:
    """What a GPU looks like to the threads that launch its work."""

    tower_launches = TOWER_LAUNCHES

    def __init__(self) -> None:
        self.sample_seconds = 0.0
        """Its time for a sample."""
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self.busy_seconds = 0.0
        self.lock_waits: list[float] = []
        """Seconds that a launching thread waited for the interpreter's lock, launch by launch."""
        self._ends: deque[float] = deque([0.0], maxlen=QUEUED_LAUNCHES)
        """When each of the last launches will be done."""

    def launch(self, count: int, seconds: float) -> None:
        """Launch so many kernels, which take so many seconds together."""
        for _ in range(count):
            computed = time.thread_time() + LAUNCH_SECONDS
            while time.thread_time() < computed:
                pass
            began = time.perf_counter()
            time.sleep(0)  # lets go of the interpreter's lock, as torch does while it launches
            now = time.perf_counter()
            with self._lock:
                self.lock_waits.append(now - began)
                self.busy_seconds += seconds / count
                has_room_at = self._ends[0] if len(self._ends) == QUEUED_LAUNCHES else 0.0
                self._ends.append(max(now, self._ends[-1]) + seconds / count)
            sleep_until(has_room_at)

    @property
    def end(self) -> float:
        """When all is done that was launched so far."""
        return self._ends[-1]


ACCELERATOR = Accelerator()


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))


class HostCopy:
    """Stands in for `launching.HostCopy`: rows arrive when the accelerator has done what was launched before."""

    def __init__(self, tensor: torch.Tensor):
        self._tensor, self._arrives = tensor, ACCELERATOR.end

    def wait(self) -> torch.Tensor:
        sleep_until(self._arrives)
        return self._tensor


@cache
def tokenizer() -> Tokenizer:
    """CLIP's, which both teachers share."""
    return make_tokenizer(read_architecture("ViT-L-14", "random"), None, 77)


class Teacher:
    """A ViT-L/14 on the accelerator."""

    def __init__(self, device: torch.device):
        self.spec = TeacherSpec(image_size=224, mean=MEAN, std=STD, dim=768)
        self.tokenizer = tokenizer()
        self._emb = torch.from_numpy(np.random.default_rng(0).standard_normal((4096, 768), dtype=np.float32))

    def encode_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        samples = len(images_BCHW) / NUM_VIEWS
        ACCELERATOR.launch(Accelerator.tower_launches, ACCELERATOR.sample_seconds * VIEWS_SHARE / 2 * samples)
        return self._emb[: len(images_BCHW)]

    def encode_tokens(self, tokens_TL: torch.Tensor) -> torch.Tensor:
        samples = len(tokens_TL) / (2 + NUM_CAPTIONS)
        ACCELERATOR.launch(Accelerator.tower_launches, ACCELERATOR.sample_seconds * TEXTS_SHARE / 2 * samples)
        return self._emb[: len(tokens_TL)]

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        return self.encode_tokens(self.tokenizer(texts))


class Captioner:
    """A CoCa on the accelerator: it encodes the images, and each word of all captions is a step."""

    def __init__(self, device: torch.device):
        self.spec = ImageSpec(224, MEAN, STD)

    def caption(
        self, images_BCHW: torch.Tensor, streams: Sequence[Sequence[Stream]], sampling: Sampling
    ) -> list[list[str]]:
        seconds = ACCELERATOR.sample_seconds * CAPTIONS_SHARE * len(images_BCHW) / (1 + NUM_WORDS)
        words = [[stream.uniforms(NUM_WORDS) for stream in own] for own in streams]
        ACCELERATOR.launch(Accelerator.tower_launches, seconds)
        for _ in range(NUM_WORDS):
            ACCELERATOR.launch(STEP_LAUNCHES, seconds)
        sleep_until(ACCELERATOR.end)
        return [[" ".join(f"word{int(1000 * word)}" for word in caption) for caption in own] for own in words]


class Renderer(DeviceRenderer):
    """Plans views as beside a GPU."""

    def __init__(self, _rendering: str, augmentation: Augmentation, device: torch.device):
        super().__init__(augmentation, device)

    def pack(self, samples: Sequence[Sample]) -> Launch:
        super().pack(samples)
        num_views = sum(len(sample.views) for sample in samples)

        def render(device: torch.device) -> torch.Tensor:
            seconds = ACCELERATOR.sample_seconds * RENDERING_SHARE * num_views / NUM_VIEWS
            ACCELERATOR.launch(RENDERING_LAUNCHES, seconds)
            return torch.empty((num_views, 224, 224, 3), dtype=torch.uint8, device=device)

        return render


class InTurn:
    """What `Prefetch` does, without prefetching: each result is made when it is asked for, on the asking thread."""

    blocked_seconds = starved_seconds = 0.0

    def __init__(
        self, _executor: Executor | None, function: Callable[[Any], Any], items: Iterable[Any], _depth: int
    ):  # fmt: skip
        self._results = map(function, items)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing runs."""

    def __iter__(self) -> Iterator[Any]:
        return self._results


@dataclass(frozen=True)
class Run:
    """Seconds of one run, models loaded."""

    wall: float
    device: float
    host_cpu: float
    lock_wait: float
    """Of a hundred launches, one waited longer for the interpreter's lock."""

    @property
    def bound(self) -> float:
        """No run is shorter: the device's time, or the host's shared among its cores."""
        return max(self.device, self.host_cpu / CORES)


def make_job(shards: Path, output: Path) -> Job:
    return Job.model_validate(
        {
            "name": "overlap",
            "input": {"shards": str(shards)},
            "output": {"path": str(output)},
            "teachers": [{"name": name, "use": f"{__name__}:Teacher"} for name in ("one", "two")],
            "captioners": [
                {"name": "coca", "use": f"{__name__}:Captioner", "tag": "coca", "num_captions": NUM_CAPTIONS}
            ],
            "augmentation": {"num_views": NUM_VIEWS},
            "workers": {"engine": "local", "cpus": CORES, "precision": "float32", "caption_batch": CAPTION_BATCH},
        }
    )


def measured(reports: Iterable[ShardReport]) -> Run:
    ACCELERATOR.reset()
    wall, cpu = time.perf_counter(), time.process_time()
    for report in reports:
        assert report.status == "done", report.error
    seconds, waits = time.perf_counter() - wall, sorted(ACCELERATOR.lock_waits)
    return Run(seconds, ACCELERATOR.busy_seconds, time.process_time() - cpu, waits[len(waits) * 99 // 100])


def overlapped(plan: Plan) -> Run:
    """As the product does it."""
    runner = LocalRunner(plan.job)
    runner.start()
    try:
        return measured(runner.run(plan.todo))
    finally:
        runner.close()


def one_after_the_other(plan: Plan) -> Run:
    """The same stages on one thread."""
    loaded = Worker(plan.job)
    loaded.load()

    def ahead(items: Iterable[Any], depth: int) -> InTurn:
        return InTurn(None, lambda item: item, items, depth)

    with mock.patch.multiple(worker, Prefetch=InTurn, ahead=ahead):
        return measured(map(loaded.run, plan.todo))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how far host work and device work overlap.")
    parser.add_argument("--quick", action="store_true", help="one round of fewer samples")
    parser.add_argument("--launches", type=int, default=TOWER_LAUNCHES, help="a batch of a teacher")
    arguments = parser.parse_args()
    quick, Accelerator.tower_launches = arguments.quick, arguments.launches
    rounds_each, num_shards, samples_per_shard = (1, 4, 96) if quick else (5, 4, 256)
    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.object(devices, "pick_device", return_value=META),
        mock.patch.object(worker, "renderer_for", Renderer),
        mock.patch.object(ensemble, "HostCopy", HostCopy),
    ):
        shards = write_shards(Path(name) / "in", num_shards, samples_per_shard)
        plan = make_plan(make_job(shards, Path(name) / "out"))
        ACCELERATOR.sample_seconds = 0.0
        host = overlapped(plan).host_cpu / CORES / (num_shards * samples_per_shard)  # it also warms caches up
        for device_to_host in DEVICE_TO_HOST:
            ACCELERATOR.sample_seconds = device_to_host * host
            for label, run, rounds in (
                ("overlapped", overlapped, rounds_each),
                ("one after the other", one_after_the_other, 1),
            ):
                report(f"device:host {device_to_host}, {label}", [run(plan) for _ in range(rounds)])


def report(label: str, runs: Sequence[Run]) -> None:
    """Print the medians of runs."""
    walls, bounds = median(one.wall for one in runs), median(one.bound for one in runs)
    figure(f"wall ÷ longer of device and host, {label}", walls, bounds, median(one.wall / one.bound for one in runs))
    figure(f"part of the time in which the device computes, {label}", median(one.device / one.wall for one in runs))
    figure(f"a launch's wait for the lock, 99th percentile, ms, {label}", 1e3 * median(one.lock_wait for one in runs))


if __name__ == "__main__":
    main()
