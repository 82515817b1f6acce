"""How fast a model is at a job's batch, and what memory that takes. A few batches: a figure to plan with.

Shapes: B images, H = W pixels, C = 3 channels.
"""

import resource
import time
from collections.abc import Callable
from itertools import cycle, islice
from typing import NamedTuple

import torch

from dr_pipeline.config.job import Batches, Workers
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.probes import TEXTS
from dr_pipeline.models.protocol import Teacher
from dr_pipeline.networks.device import Precision, used_precision
from dr_pipeline.words import plural

_ON_CPU = Batches(views=16, captions=4, texts=64)
"""Smaller than a job's: a large model takes seconds for an image there, and no longer for each of more."""
_SECONDS, _MOST_RUNS = 1.5, 10


def batches_for(device: torch.device, batch: int | None) -> Batches:
    """The batches to try a model at: `batch` of everything, or the default."""
    if batch is not None:
        return Batches(batch, batch, batch)
    return _ON_CPU if device.type == "cpu" else Workers().batches(device.type)


def teacher_speed(teacher: Teacher, device: torch.device, batch: int | None, needs_autocast: bool) -> dict[str, str]:
    """The facts `speed` and `memory` of a teacher, run as a job runs it."""
    batches = batches_for(device, batch)
    ensemble = Ensemble([("it", teacher)], device, "auto", () if needs_autocast else ("it",))
    speeds = []
    if ensemble.image_teachers:
        size, generator = teacher.spec.images.image_size, torch.Generator().manual_seed(0)
        views_BHWC = torch.randint(256, (batches.views, size, size, 3), dtype=torch.uint8, generator=generator)
        speeds.append(Timed("images", batches.views).run(lambda: ensemble.start_images(views_BHWC).finish(), device))
    if ensemble.text_teachers:
        texts = list(islice(cycle(TEXTS), batches.texts))
        speeds.append(Timed("texts", batches.texts).run(lambda: ensemble.embed_texts(texts), device))
    return speed_facts(", ".join(speeds), device)


class Timed(NamedTuple):
    """What a run makes: `outputs` of each of its inputs, of which a batch has `batch`."""

    what: str
    batch: int
    outputs: int = 1

    def run(self, run: Callable[[], object], device: torch.device) -> str:
        """How many a second, in words. A run gives results in host memory, so that it waits for a GPU."""
        try:
            if device.type != "cpu":
                run()  # memory is allocated, and kernels are chosen
            begun, runs = time.perf_counter(), 0
            while runs < _MOST_RUNS and (not runs or time.perf_counter() - begun < _SECONDS):
                run()
                runs += 1
        except torch.OutOfMemoryError:
            return f"no memory for batches of {self.batch}, which a job would halve: try --batch"
        rate = runs * self.batch * self.outputs / (time.perf_counter() - begun)
        return f"{f'{rate:,.0f}' if rate >= 10 else f'{rate:.2g}'} {self.what}/s in batches of {self.batch}"


def speed_facts(speed: str, device: torch.device) -> dict[str, str]:
    """The fact `speed`, and `memory`: the most that this process has had, the GPU's by torch, or the machine's."""
    memory = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB at most, the whole process"
    if device.type == "cuda":
        memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB of the GPU at most"
    return {"speed": f"{speed} ({on(device)})", "memory": memory}


def on(device: torch.device, precision: Precision = "auto") -> str:
    """The device and the precision that is used there, in words."""
    threads = plural(torch.get_num_threads(), "thread")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads}"
    return f"{name}, {used_precision(device, precision)}"
