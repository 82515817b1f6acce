"""Batches that do not fit on the device are halved, with the same results."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.reinforce.in_flight import DeviceBatches
from dr_pipeline.reinforce.worker import Worker
from tests.demo_job import demo_job, make_scenes
from tests.tars import read_reinforced


class Device:
    """A device with memory for `memory` rows at once."""

    def __init__(self, memory: int):
        self.memory = memory
        self.tried: list[int] = []

    def work(self, rows: list[int]) -> list[int]:
        self.tried.append(len(rows))
        if len(rows) > self.memory:
            raise torch.OutOfMemoryError
        return [-row for row in rows]


def test_a_batch_that_does_not_fit_is_halved_and_later_ones_are_no_larger() -> None:
    device, batches = Device(memory=3), DeviceBatches("rows", 8)
    results = batches.run(device.work, list(range(10)))
    assert list(chain.from_iterable(results)) == [-row for row in range(10)]
    assert device.tried == [8, 4, 2, 2, 2, 2, 2]
    device.tried.clear()
    batches.run(device.work, list(range(4)))
    assert device.tried == [2, 2]


def test_one_row_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        DeviceBatches("rows", 4).run(Device(memory=0).work, [1, 2, 3])


CROWDED = """
import torch

from dr_pipeline.models.protocol import TeacherSpec
from dr_pipeline.networks.images import ImageSpec

HALF = (0.5, 0.5, 0.5)


def check(rows, most):
    if rows > most:
        raise torch.OutOfMemoryError("no memory")


class Teacher:
    def __init__(self, device, most):
        self.spec = TeacherSpec(image_size=32, mean=HALF, std=HALF, dim=4)
        self.most = most

    def encode_images(self, images_BCHW):
        check(len(images_BCHW), self.most)
        return images_BCHW[:, :, :2, :2].mean(dim=1).flatten(1) + 3

    def encode_texts(self, texts):
        check(len(texts), self.most)
        return torch.tensor([[len(text), 1.0, 2.0, ord(text[-1])] for text in texts])


class Captioner:
    def __init__(self, device, most):
        self.spec = ImageSpec(image_size=32, mean=HALF, std=HALF)
        self.most = most

    def caption(self, images_BCHW, streams, sampling):
        check(len(images_BCHW), self.most)
        return [[f"{float(image.mean()):.4f}" for _ in row] for image, row in zip(images_BCHW, streams)]
"""


def test_a_shard_comes_out_the_same_from_a_small_device(tmp_path: Path) -> None:
    (tmp_path / "crowded.py").write_text(CROWDED)
    scenes = make_scenes(tmp_path / "in", num_shards=1, samples_per_shard=6)
    made = [reinforced(scenes, tmp_path / str(most), most, tmp_path) for most in (1000, 1)]
    assert made[0].keys() == made[1].keys()
    for key, roomy in made[0].items():
        crowded = made[1][key]
        assert roomy.synthetic == crowded.synthetic
        for column, array in roomy.columns.items():
            np.testing.assert_array_equal(array, crowded.columns[column])


def reinforced(scenes: Path, output: Path, most: int, plugins: Path) -> dict:
    models = [
        f"teachers=[{{use: 'crowded:Teacher', options: {{most: {most}}}}}]",
        f"captioners=[{{use: 'crowded:Captioner', options: {{most: {most}}}, num_captions: 2}}]",
    ]
    plan = make_plan(demo_job(scenes, output, *models, f"plugin_dirs=[{plugins}]"))
    worker = Worker(plan.job)
    worker.load()
    report = worker.run(plan.todo[0])
    assert report.status == "done", report.error
    return read_reinforced(output / report.name)
