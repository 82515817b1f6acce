"""Wherever views are rendered, the teachers see the same pixels, and the shards have the same bytes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dr_pipeline.config.augmentation import Augmentation, RandomResizedCropSettings
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import ConfigError
from dr_pipeline.networks import launching
from dr_pipeline.reinforce import rendering
from dr_pipeline.reinforce.rendering import DeviceRenderer, HostRenderer, Renderer, renderer_for
from dr_pipeline.reinforce.worker import Worker
from tests.conftest import draw
from tests.demo_job import demo_job, make_scenes

CPU = torch.device("cpu")
AUGMENTATION = Augmentation(num_views=2, random_resized_crop=RandomResizedCropSettings(size=24))


def pixels_by(renderer: Renderer, images: list[Image.Image]) -> torch.Tensor:
    samples = [Sample(str(index), {}) for index in range(len(images))]
    for sample, image in zip(samples, images, strict=True):
        sample.views = draw(image.width, image.height, AUGMENTATION, 0, sample.key)
        renderer.prepare(sample, image)
    launch = renderer.pack(samples)
    assert all(sample.views_NHWC is None and sample.image_HWC is None for sample in samples)
    return launch(CPU)


@pytest.fixture
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(40, 30), (25, 60), (31, 31)]
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


def test_the_device_renders_the_hosts_pixels(images: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    on_host = pixels_by(HostRenderer(AUGMENTATION, CPU), images)
    assert on_host.shape == (6, 24, 24, 3)
    assert torch.equal(pixels_by(DeviceRenderer(AUGMENTATION, CPU), images), on_host)
    monkeypatch.setattr(rendering, "_LARGEST_ON_DEVICE", 1300)  # the second image is larger
    assert torch.equal(pixels_by(DeviceRenderer(AUGMENTATION, CPU), images), on_host)


def test_a_job_whose_views_the_device_renders_has_the_same_bytes(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "scenes", num_shards=1, samples_per_shard=3)
    tars = []
    for place in ("host", "device"):
        plan = make_plan(demo_job(scenes, tmp_path / place, f"workers.render={place}", "augmentation.num_views=2"))
        worker = Worker(plan.job)
        worker.load()
        report = worker.run(plan.todo[0])
        assert report.error is None
        tars.append((tmp_path / place / report.name).read_bytes())
    assert tars[0] == tars[1]


def test_a_gpu_renders_by_itself_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert isinstance(renderer_for("auto", AUGMENTATION, cuda), DeviceRenderer)
    assert isinstance(renderer_for("host", AUGMENTATION, cuda), HostRenderer)
    assert isinstance(renderer_for("auto", AUGMENTATION, CPU), HostRenderer)
    monkeypatch.setattr(rendering, "runs_kernels", lambda device: False)
    assert isinstance(renderer_for("auto", AUGMENTATION, cuda), HostRenderer)
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU and Triton"):
        renderer_for("device", AUGMENTATION, CPU)


def test_kernels_run_on_a_gpu_and_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    assert [launching.runs_kernels(torch.device(kind)) for kind in ("cuda", "cpu")] == [True, False]
    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    assert launching.runs_kernels(CPU)
