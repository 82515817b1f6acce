"""A job of labelled images in small: scikit-learn's digits in tars, and tiny classifiers of timm."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from dr_pipeline.config.job import Job
from tests.conftest import merged, write_tar

SIDE = 32
NUM_CLASSES = 10

PLUGIN = """
import timm
import torch

from dr_pipeline.models.protocol import TeacherSpec


class Classifier:
    def __init__(self, device, model, seed=0, num_classes=10, scale=1.0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = timm.create_model(model, num_classes=num_classes).eval().to(device)
        self.scale = scale  # random weights give nearly equal logits
        self.spec = TeacherSpec(
            dim=num_classes, image_size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), output="probabilities"
        )

    def encode_images(self, images_BCHW):
        return (self.scale * self.network(images_BCHW)).softmax(dim=1)
"""


def write_digits(folder: Path, num_shards: int = 1, samples_per_shard: int = 6) -> Path:
    """Tars of `KEY.png` and `KEY.cls`, and one image without a class at the end of each."""
    digits = load_digits()
    for shard in range(num_shards):
        members = []
        for index in range(shard * samples_per_shard, (shard + 1) * samples_per_shard):
            pixels_HW = (digits.images[index] * 15).astype(np.uint8)
            picture = Image.fromarray(pixels_HW).resize((40 + index, 48), Image.Resampling.BICUBIC).convert("RGB")
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            members.append((f"d{index:04}.png", buffer.getvalue()))
            if index % samples_per_shard < samples_per_shard - 1:
                members.append((f"d{index:04}.cls", str(digits.target[index]).encode()))
        write_tar(folder / f"{shard:05}.tar", members)
    return folder


def job_of(folder: Path, **changes: Any) -> Job:
    """A job on `folder/in`, written to `folder/out`."""
    (folder / "classifiers.py").write_text(PLUGIN)
    models = {"resnet": 40.0, "efficientnet": 400.0}
    teachers = [
        {
            "name": name,
            "use": "classifiers:Classifier",
            "options": {"model": f"test_{name}", "seed": seed, "scale": scale},
        }
        for seed, (name, scale) in enumerate(models.items())
    ]
    tree = {
        "name": "digits",
        "input": {"shards": str(folder / "in"), "caption": "none"},
        "output": {"path": str(folder / "out"), "top_k": 4},
        "teachers": teachers,
        "augmentation": {"num_views": 3, "random_resized_crop": {"size": SIDE}, "random_horizontal_flip": {}},
        "workers": {"engine": "local", "view_batch": 8},
        "plugin_dirs": [str(folder)],
    }
    return Job.model_validate(merged(tree, changes))
