"""A job with real, small models in a working folder of its own, and calls of the program on it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dr_pipeline.cli import main
from tests.conftest import job_tree, make_sample_members, merged, write_tar

# A real, small, deterministic plug-in: what it embeds is the mean colour, or the letters.
PLUGIN = """
import torch
from dr_pipeline.models.protocol import ImageSpec, TeacherSpec

class Clip:
    def __init__(self, device, dim):
        self.spec = TeacherSpec(image_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=dim)

    def encode_images(self, images_BCHW):
        pooled = images_BCHW.mean(dim=(2, 3))
        return torch.stack([pooled[:, i % 3] + i + 1 for i in range(self.spec.dim)], dim=1)

    def encode_texts(self, texts):
        rows = [[1.0 + sum(text.encode()[i :: self.spec.dim]) for i in range(self.spec.dim)] for text in texts]
        return torch.tensor(rows)

class Coca:
    def __init__(self, device):
        self.spec = ImageSpec(image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def caption(self, images_BCHW, streams, sampling):
        return [[f"caption {stream.integer(1000)}" for stream in row] for row in streams]

class Mute(Coca):
    def caption(self, images_BCHW, streams, sampling):
        return [[" " for stream in row] for row in streams]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a job, its plug-in and two shards of four samples."""
    monkeypatch.chdir(tmp_path)
    Path("lab_of_cli.py").write_text(PLUGIN)
    for shard in range(2):
        members = [
            m for index in range(4) for m in make_sample_members(f"{shard}_{index}", f"caption of {index}", index)
        ]
        write_tar(tmp_path / "in" / f"{shard}.tar", members)
    write_job()
    return tmp_path


def write_job(**changes: Any) -> None:
    models = {
        "captioners": [{"name": "coca", "use": "lab_of_cli:Coca", "num_captions": 2}],
        "teachers": [
            {"name": f"clip{dim}", "use": "lab_of_cli:Clip", "dim": dim, "options": {"dim": dim}} for dim in (3, 5)
        ],
        "workers": {"engine": "local", "gpus": 0, "cpus": 1, "view_batch": 8},
    }
    Path("job.yaml").write_text(yaml.safe_dump(merged(job_tree(**models), changes)))


def call(*arguments: str) -> int:
    return main(arguments)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
