"""Whether host work and device work overlap: a whole run against the longer of the two, with a simulated accelerator.

    python benchmarks/overlap.py [--quick]

The accelerator takes so many milliseconds for a batch of views, occupies no CPU and holds no lock of the interpreter;
as on a GPU, copying, resampling and normalising cost the host nothing (torch's meta device). Reading, decoding,
rendering, encoding and writing are the real ones: 640 × 480 JPEGs, the paper's 30 views of 224 px, 1,536 dims. The
bound is the longer of the device's time and the host's CPU time divided by its cores, both of the very run. Beside it
the same stages one after the other, on one thread.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self
from unittest import mock

import numpy as np
import torch
from measure import figure
from photos import write_shards

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.plan import Plan, make_plan
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.models.protocol import TeacherSpec
from dr_pipeline.networks import device as devices
from dr_pipeline.reinforce import worker
from dr_pipeline.reinforce.worker import Worker
from dr_pipeline.runners.local import LocalRunner

CORES = os.cpu_count() or 1
META = torch.device("meta")
DEVICE_TO_HOST = (0.5, 1.0, 2.0)


class Accelerator:
    """A teacher whose batches take `seconds` each, wherever they come from."""

    seconds = 0.0
    busy_seconds = 0.0

    def __init__(self, device: torch.device):
        self.spec = TeacherSpec(image_size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=1536)
        self._emb = torch.from_numpy(np.random.default_rng(0).standard_normal((4096, 1536), dtype=np.float32))

    def encode_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        time.sleep(Accelerator.seconds)
        Accelerator.busy_seconds += Accelerator.seconds
        return self._emb[: len(images_BCHW)]

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        return self._emb[: len(texts)]


def make_job(shards: Path, output: Path) -> Job:
    return Job.model_validate(
        {
            "name": "overlap",
            "input": {"shards": str(shards)},
            "output": {"path": str(output)},
            "teachers": [{"name": "accelerator", "use": f"{__name__}:Accelerator"}],
            "workers": {"engine": "local", "cpus": CORES, "precision": "float32"},
        }
    )


class InTurn:
    """What `Prefetch` does, without prefetching: each result is made when it is asked for, on the asking thread."""

    blocked_seconds = starved_seconds = 0.0

    def __init__(self, _executor: Executor, function: Callable[[Any], Any], items: Iterable[Any], _depth: int):
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

    @property
    def bound(self) -> float:
        """No run is shorter: the device's time, or the host's shared among its cores."""
        return max(self.device, self.host_cpu / CORES)


def measured(plan: Plan, reports: Iterable[ShardReport]) -> Run:
    Accelerator.busy_seconds = 0.0
    wall, cpu = time.perf_counter(), time.process_time()
    for report in reports:
        assert report.status == "done", report.error
    return Run(time.perf_counter() - wall, Accelerator.busy_seconds, time.process_time() - cpu)


def overlapped(plan: Plan) -> Run:
    """As the product does it."""
    runner = LocalRunner(plan.job)
    runner.start()
    try:
        return measured(plan, runner.run(plan.todo))
    finally:
        runner.close()


def one_after_the_other(plan: Plan) -> Run:
    """The same stages on one thread."""
    loaded = Worker(plan.job)
    loaded.load()
    with mock.patch.object(worker, "Prefetch", InTurn):
        return measured(plan, map(loaded.run, plan.todo))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how far host work and device work overlap.")
    parser.add_argument("--quick", action="store_true", help="one round of fewer samples")
    quick = parser.parse_args().quick
    rounds_each, num_shards, samples_per_shard = (1, 4, 48) if quick else (5, 4, 128)
    with tempfile.TemporaryDirectory() as name, mock.patch.object(devices, "pick_device", return_value=META):
        shards = write_shards(Path(name) / "in", num_shards, samples_per_shard)
        plan = make_plan(make_job(shards, Path(name) / "out"))
        num_batches = num_shards * -(-samples_per_shard // (256 // 30))
        host = overlapped(plan).host_cpu / CORES / num_batches  # the first run also warms caches up
        for device_to_host in DEVICE_TO_HOST:
            Accelerator.seconds = device_to_host * host
            for label, run, rounds in (
                ("overlapped", overlapped, rounds_each),
                ("one after the other", one_after_the_other, 1),
            ):
                runs = [run(plan) for _ in range(rounds)]
                figure(
                    f"wall ÷ longer of device and host, device:host {device_to_host}, {label}",
                    median(one.wall for one in runs),
                    median(one.bound for one in runs),
                    median(one.wall / one.bound for one in runs),
                )


if __name__ == "__main__":
    main()
