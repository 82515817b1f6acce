"""The teachers' images: as the job embeds them, against the bare image tower in every form that it can take."""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.networks.images import host_tensor, prepare
from on_gpu.bench import Bench
from on_gpu.models import TEACHER, Teacher, write_tiny

_BATCHES_IN_FLIGHT = 4


class Towers:
    """Two teachers as the job holds them, and the first one's bare image tower."""

    def __init__(self, bench: Bench, folder: Path):
        model = bench.size(TEACHER, write_tiny(folder)[0])
        teachers = [Teacher(bench.device, model) for _ in range(2)]
        self.ensemble = Ensemble([(str(number), teacher) for number, teacher in enumerate(teachers)], bench.device)
        self.spec = teachers[0].spec
        self.float32: Any = teachers[0]._network.module.visual
        self.bfloat16: Any = deepcopy(self.float32).to(torch.bfloat16)
        self._device = bench.device

    def views(self, batch: int) -> torch.Tensor:
        """uint8 [batch, H, W, 3], where the job's chunks lie."""
        side = self.spec.image_size
        generator = torch.Generator().manual_seed(0)
        return host_tensor(
            torch.randint(256, (batch, side, side, 3), dtype=torch.uint8, generator=generator).numpy(), self._device
        )

    def images(self, batch: int) -> torch.Tensor:
        """The same, normalised on the device."""
        return prepare(self.views(batch).to(self._device), self.spec)


def measure(bench: Bench) -> None:
    """Print images a second and how far each form is from float32."""
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        towers = Towers(bench, Path(name))
        exact = towers.float32(towers.images(bench.size(256, 4)))
        for batch in bench.size((256, 512), (4,)):
            for label, tower, dtype in _forms(bench, towers):
                with bench.attempt(f"{label}, batch {batch}"):
                    _forward(bench, label, tower, towers.images(batch).to(dtype), exact)
            with bench.attempt(f"the job's, batch {batch}"):
                views = towers.views(batch)
                seconds = bench.seconds(lambda views=views: _in_flight(towers.ensemble, views)) / _BATCHES_IN_FLIGHT
                baseline = 1 / bench.bare["image"] if "image" in bench.bare else None
                bench.figure(f"the job's, two teachers, batch {batch}", 2 * batch / seconds, "images/s", baseline)
        images = towers.images(bench.size(256, 4))
        with bench.attempt("float32"):
            _forward(bench, "float32", towers.float32, images, exact)
        with bench.attempt("compiled whole"):  # last: it takes the longest
            tower = bench.compiled(deepcopy(towers.bfloat16))
            _forward(bench, "bfloat16 weights, compiled whole", tower, images.bfloat16(), exact)


def tune(bench: Bench) -> None:
    """Print what the slow search of torch.compile adds; it takes minutes."""
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        towers = Towers(bench, Path(name))
        images = towers.images(bench.size(256, 4))
        tower = bench.compiled(towers.bfloat16, "max-autotune-no-cudagraphs")
        with bench.attempt("max-autotune-no-cudagraphs"):
            _forward(bench, "max-autotune-no-cudagraphs", tower, images.bfloat16(), towers.float32(images))


def _forms(bench: Bench, towers: Towers) -> list[tuple[str, Callable[[torch.Tensor], torch.Tensor], torch.dtype]]:
    def autocast(images_BCHW: torch.Tensor) -> torch.Tensor:
        with torch.autocast(bench.device.type, dtype=torch.bfloat16):
            return towers.float32(images_BCHW)

    return [
        ("autocast over float32 weights", autocast, torch.float32),
        ("bfloat16 weights", towers.bfloat16, torch.bfloat16),
        ("bfloat16 weights, compiled by blocks", bench.compiled_by_blocks(deepcopy(towers.bfloat16)), torch.bfloat16),
    ]


def _forward(
    bench: Bench,
    label: str,
    tower: Callable[[torch.Tensor], torch.Tensor],
    images_BCHW: torch.Tensor,
    exact_BD: torch.Tensor,
) -> None:
    batch = len(images_BCHW)
    seconds = bench.seconds(lambda: tower(images_BCHW))
    bench.remember("image", seconds / batch)
    bench.figure(f"bare, {label}, batch {batch}", batch / seconds, "images/s")
    if batch == len(exact_BD):
        apart = 1 - F.cosine_similarity(tower(images_BCHW).double(), exact_BD.double())
        bench.figure(f"1 - cosine to float32, {label}", float(apart.mean()), "")


def _in_flight(ensemble: Ensemble, views_BHWC: torch.Tensor) -> None:
    """As the job does it: a batch is started while those before it are computed."""
    started = [ensemble.start_images(views_BHWC) for _ in range(_BATCHES_IN_FLIGHT)]
    for batch in started:
        batch.finish()
