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
from on_gpu.models import JOB_FORMS, TEACHER, Teacher, largest_error, two_teachers, write_tiny

_BATCHES_IN_FLIGHT = 4
_COMPILED_BATCH = 256


class Towers:
    """A teacher's bare image tower."""

    def __init__(self, bench: Bench, folder: Path):
        self.model = bench.size(TEACHER, write_tiny(folder)[0])
        teacher = Teacher(bench.device, self.model)
        self.spec = teacher.spec
        self.float32: Any = teacher._network.module.visual
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
        images = towers.images(bench.size(256, 4))
        with bench.attempt("float32"):
            _forward(bench, "float32", towers.float32, images, exact)
        _as_the_job_does(bench, towers)
        with bench.attempt("compiled whole"):  # last: it takes the longest
            tower = bench.compiled(deepcopy(towers.bfloat16))
            _forward(bench, "bfloat16 weights, compiled whole", tower, images.bfloat16(), exact)


def _as_the_job_does(bench: Bench, towers: Towers) -> None:
    """Two teachers in each precision that a job may have."""
    few = towers.views(bench.size(64, 4)).numpy()
    exact = two_teachers(bench, towers.model, "float32").embed_images(few)
    for label, (precision, is_compiled) in JOB_FORMS.items():
        with bench.attempt(f"the job's, {label}"):
            ensemble = two_teachers(bench, towers.model, precision)
            if is_compiled and not bench.dry:
                ensemble.compile(_COMPILED_BATCH, _COMPILED_BATCH)
            for batch in bench.size((_COMPILED_BATCH,) if is_compiled else (256, 512), (4,)):
                if not is_compiled:
                    ensemble.replay(batch, batch)
                _rate(bench, ensemble, label, towers.views(batch))
            error = largest_error(ensemble.embed_images(few), exact)
            bench.figure(f"1 - cosine to float32, the job's, {label}", error, "")


def _rate(bench: Bench, ensemble: Ensemble, label: str, views_BHWC: torch.Tensor) -> None:
    batch = len(views_BHWC)
    seconds = bench.seconds(lambda: _in_flight(ensemble, views_BHWC)) / _BATCHES_IN_FLIGHT
    baseline = 1 / bench.bare["image"] if "image" in bench.bare else None
    bench.figure(f"the job's, two teachers, {label}, batch {batch}", 2 * batch / seconds, "images/s", baseline)


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
