"""Whether memory grows with the shard: the peak above the models at ten times the samples.

    python benchmarks/memory.py [--quick]

A whole run of one shard in a process of its own, local engine, 30 views of 640 × 480 JPEGs, 1,536 dims. The teacher is
a plug-in on a simulated accelerator (overlap.py says how), so what is measured is all that the pipeline holds; it takes
its time, as teachers do, so that the stages before it hold all that they may. The peak is the process's own
(Linux's VmHWM), counted from what it holds when the teacher is loaded. 1,000 and 10,000 samples, views of 112 px, for
the shard is what may matter; the quick form: 200 and 2,000 of 64 px.
"""

import argparse
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import torch
from measure import figure
from photos import write_shards

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.models.protocol import TeacherSpec
from dr_pipeline.networks import device as devices
from dr_pipeline.report.snapshot import Snapshot
from dr_pipeline.runners.run import run

META = torch.device("meta")
DIM = 1536
BATCHES = {"view_batch": 256, "caption_batch": 32, "text_batch": 32}
"""Of a CPU, and less: what is in flight must be less than the smaller shard, or the larger one would hold more."""
TEACHER_SECONDS_PER_VIEW = 7e-4
"""More than the host's core takes: 15 ms for the 30 views of a sample, of 64 px as of 112."""


class Weightless:
    """A teacher that occupies no core: every image and text has the same embedding."""

    loaded_kb = 0

    def __init__(self, device: torch.device, image_size: int):
        self.spec = TeacherSpec(image_size=image_size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=DIM)

    def encode_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        time.sleep(len(images_BCHW) * TEACHER_SECONDS_PER_VIEW)
        return torch.ones(len(images_BCHW), DIM)

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        if not Weightless.loaded_kb:  # the check of a teacher that was just loaded
            Weightless.loaded_kb = held_kb("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        return torch.ones(len(texts), DIM)


class Silent:
    """Shows nothing."""

    def planned(self, plan: Plan) -> None:
        """The run begins."""

    def progressed(self, snapshot: Snapshot) -> None:
        """It goes on."""

    def reported(self, report: ShardReport) -> None:
        """A shard has ended."""


def held_kb(field: str) -> int:
    """A line of this process's memory."""
    (kilobytes,) = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes)


def make_job(shards: str, output: str, view_size: int) -> Job:
    return Job.model_validate(
        {
            "name": "memory",
            "input": {"shards": shards},
            "output": {"path": output},
            "teachers": [{"name": "weightless", "use": f"{__name__}:Weightless", "options": {"image_size": view_size}}],
            "augmentation": {"random_resized_crop": {"size": view_size}},
            "workers": {"engine": "local", "cpus": 1, **BATCHES},
        }
    )


def peak_mb(shards: str, view_size: int) -> float:
    """The peak of a run in this process, above what it held when the teacher was loaded."""
    with tempfile.TemporaryDirectory() as name, mock.patch.object(devices, "pick_device", return_value=META):
        outcome = run(make_job(shards, name, view_size), Silent())
    assert not outcome.failed, outcome.failed[0].error
    assert Weightless.loaded_kb
    return (held_kb("VmHWM") - Weightless.loaded_kb) / 1024


def peak_of_a_process_mb(shards: Path, view_size: int) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_mb, str(shards), view_size).result()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure whether memory grows with the shard.")
    parser.add_argument("--quick", action="store_true", help="fewer samples, smaller views")
    quick = parser.parse_args().quick
    few, view_size = (200, 64) if quick else (1000, 112)
    with tempfile.TemporaryDirectory() as name:
        small, large = (
            peak_of_a_process_mb(write_shards(Path(name) / str(count), 1, count), view_size)
            for count in (few, 10 * few)
        )
    figure(
        f"peak MiB above the models, {10 * few} ÷ {few} samples a shard, views of {view_size} px",
        large,
        small,
        large / small,
    )


if __name__ == "__main__":
    main()
