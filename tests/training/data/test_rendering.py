"""A batch whose views the device renders equals the host's to the last bit, and takes no more memory than it may.

Without a GPU the kernels run in Triton's interpreter (tests/conftest.py).
"""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.training.data import rendering
from dr_pipeline.training.data.batch import Batch
from dr_pipeline.training.data.reader import LoaderId, Position
from dr_pipeline.training.data.rendering import DeviceViews, HostViews, StudentViews, views_for
from dr_pipeline.training.data.samples import SelectedSamples
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.seeding import Stream
from dr_pipeline.views.transforms import View
from tests.conftest import STANDARD, image_bytes, recipe_of, view_of, write_tar
from tests.training.data.loading import GOLDEN_SHARDS, golden_job, make_loader, same, train_job

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DEVICE = CUDA if torch.cuda.is_available() else CPU
SIDE = 32
"""Of a view, in pixels: some crops of the golden shards have more than eight times its pixels, others fewer."""


def batches(job: TrainJob, views: StudentViews, count: int) -> list[Batch]:
    return [batch.to(DEVICE) for batch in islice(make_loader(job, 4, views=views), count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_host(workers: int) -> None:
    job = golden_job(GOLDEN_SHARDS[2], data={"workers": workers})
    on_host = batches(job, HostViews(STANDARD, SIDE, for_teachers=False), 3)
    on_device = batches(job, DeviceViews(STANDARD, SIDE), 3)
    assert on_device[0].images_BHWC.shape == (4, SIDE, SIDE, 3)
    assert all(same(*pair) for pair in zip(on_device, on_host, strict=True))


def test_a_batch_holds_crops_and_what_is_too_large_rendered() -> None:
    job, views = golden_job(GOLDEN_SHARDS[2]), DeviceViews(STANDARD, SIDE)
    source = SelectedSamples(job, open_training_set(job), views.prepare, LoaderId(0, 1))
    samples = [sample for sample, _ in islice(source.read(Position()), 24)]
    is_rendered = [sample.views == ((),) for sample in samples]
    assert {True, False} == set(is_rendered)
    for sample, rendered in zip(samples, is_rendered, strict=True):
        assert sample.image_HWC is not None
        assert not rendered or sample.image_HWC.shape == (SIDE, SIDE, 3)
        assert sample.image_HWC.size <= 8 * SIDE * SIDE * 3
    total = sum(sample.image_HWC.size for sample in samples if sample.image_HWC is not None)
    assert sum(part.pixels.numel() for part in views.pack(samples)) == total
    assert all(sample.image_HWC is None for sample in samples)


def pixels_by(views: StudentViews, drawn: list[tuple[Image.Image, View]]) -> torch.Tensor:
    """uint8 [B, S, S, C]."""
    samples = [Sample(str(index), {}, views=(view,)) for index, (_, view) in enumerate(drawn)]
    for sample, (image, _) in zip(samples, drawn, strict=True):
        views.prepare(sample, image)
    pixels = views.pack(samples)
    return Batch([], pixels, {}, {}, None, {}, {}).to(DEVICE).images_BHWC.cpu()


@pytest.mark.parametrize(
    "settings",
    [
        {"random_horizontal_flip": {}, "random_erase": {}},
        {"center_crop": {"size": 60}, "random_resized_crop": None, "rand_augment": None},
        {"center_crop": {"size": 47}, "random_resized_crop": {"interpolation": "bilinear"}, "rand_augment": None},
        {"random_crop": {"size": 45, "pad_if_needed": True}, "random_resized_crop": None},
        {"random_resized_crop": {"p": 0.5}},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_views_of_any_recipe_are_those_of_the_host(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, rng = recipe_of(**settings), np.random.default_rng(0)
    drawn = []
    for number, (width, height) in enumerate([(50, 20), (9, 70), (46, 46), (120, 90)]):  # the last is large
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        drawn += [(image, recipe.draw(width, height, Stream(4, number, index))) for index in range(2)]
    expected = pixels_by(HostViews(recipe, 24, for_teachers=False), drawn)
    assert torch.equal(pixels_by(DeviceViews(recipe, 24), drawn), expected)
    monkeypatch.setattr(rendering, "_VIEWS_AT_ONCE", 3)
    assert torch.equal(pixels_by(DeviceViews(recipe, 24), drawn), expected)


@pytest.mark.parametrize("side", [30, 300])
def test_a_magnitude_that_cannot_be_applied_skips_one_sample(side: int) -> None:
    image, view = Image.new("RGB", (side, side)), view_of((0, 0, side, side), ((10, 99.0),))
    for views in (HostViews(STANDARD, SIDE, for_teachers=False), DeviceViews(STANDARD, SIDE)):
        with pytest.raises(SampleSkipped) as caught:
            views.prepare(Sample("key", {}, views=(view,)), image)
        assert caught.value.reason == "bad paug.json"


def test_fresh_views_are_those_of_the_host(tmp_path: Path) -> None:
    images = [(f"{index}.jpg", image_bytes(90, 60, index)) for index in range(4)]
    captions = [(f"{index}.json", b'{"caption": "a cat"}') for index in range(4)]
    write_tar(tmp_path / "0.tar", sorted(images + captions))
    augmentation = {"random_resized_crop": {"size": 16}, "random_horizontal_flip": {}}
    nothing_stored = {"distillation": {"weight": 0}, "captions": {"synthetic_weight": 0}}
    job = train_job(tmp_path, data={"augmentation": augmentation}, schedule={"batch_size": 4}, **nothing_stored)
    recipe = Recipe(job.data.augmentation)  # type: ignore[arg-type]
    on_host, on_device = HostViews(recipe, 16, for_teachers=False), DeviceViews(recipe, 16)
    assert same(batches(job, on_device, 1)[0], batches(job, on_host, 1)[0])


def test_a_gpu_renders_by_itself_unless_teachers_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    job = golden_job(GOLDEN_SHARDS[2])
    online = golden_job(GOLDEN_SHARDS[2], distillation={"online_teachers": [{"name": "t", "use": "lab:Clip"}]})
    assert isinstance(views_for(job, STANDARD, SIDE, CUDA), DeviceViews)
    assert isinstance(views_for(job, STANDARD, SIDE, CPU), HostViews)
    assert isinstance(views_for(online, STANDARD, SIDE, CUDA), HostViews)
    monkeypatch.setattr(rendering, "runs_kernels", lambda device: False)
    assert isinstance(views_for(job, STANDARD, SIDE, CUDA), HostViews)
