"""Shared places, and small real things: images, tars, jobs, reinforcements."""

import gzip
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from dr_pipeline.config.augmentation import Augmentation, ViewRecipe
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.sample import IMAGE, TEXT, Column, Sample
from dr_pipeline.dataset.tar import TarWriter
from dr_pipeline.storage import lease
from dr_pipeline.views import recipe
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.transforms import View
from tests.site import build_site, write_pages
from tests.tars import Member

DATA = Path(__file__).parent / "data"
STANDARD = Recipe(ViewRecipe())
"""RandomResizedCrop and RandAugment: the views of the paper."""
GOLDEN = DATA / "golden"
NUM_THREADS = torch.get_num_threads()


def pytest_configure(config: pytest.Config) -> None:
    """Give this process a folder of its own for Ray's files, which name the cluster to join; Ray needs short paths.

    Ray's workers stand behind nobody: by themselves they let the other process of the tests go first.
    """
    folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.environ.update(RAY_TMPDIR=folder.name, RAY_worker_niceness="0")


@pytest.hookimpl(tryfirst=True)  # before the one that reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Divide the tests among processes, where there are several.

    Those that start Ray run one after the other in one process, for a machine has one cluster; they take longest, so
    they come first. Of the others each file is one process's, so that its fixtures are made once; files that share a
    fixture may name a group of their own.
    """
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    """A run sets torch's threads for its whole process: the next file has those of before."""
    yield
    torch.set_num_threads(NUM_THREADS)


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation's pages as Markdown."""
    return write_pages(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def site(pages: Path) -> Path:
    """The documentation's built site: `pytest.mark.xdist_group("site")` has it built once."""
    return build_site(pages.parent.parent)


# The same examples in every run, and no time limit for one: machines that run tests are busy.
settings.register_profile("suite", max_examples=50, deadline=None, derandomize=True)
settings.load_profile("suite")

# A run that has taken its output looks half a second later whether another has begun at the same time. Of the hundreds
# of runs here none does.
lease._SETTLING_S = 0.01

# Triton reads it when it is imported, as torch does for some of the modules under test: before all of them.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def image_bytes(width: int = 40, height: int = 30, seed: int = 0, form: str = "JPEG") -> bytes:
    """A small image of noise."""
    pixels_HWC = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, form)
    return buffer.getvalue()


def make_sample_members(key: str, caption: str = "a red cube", seed: int = 0, **others: bytes) -> list[Member]:
    """Image, caption and json of one sample; `others` are further members by extension, `_` for a dot."""
    members = [
        (f"{key}.jpg", image_bytes(seed=seed)),
        (f"{key}.txt", caption.encode()),
        (f"{key}.json", json.dumps({"uid": key}).encode()),
    ]
    return members + [(f"{key}.{name.replace('_', '.')}", data) for name, data in others.items()]


def tar_bytes(members: Iterable[Member]) -> bytes:
    """A tar of these members, by the package's own writer."""
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    for name, data in members:
        writer.add(name, data)
    writer.close()
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[Member]) -> Path:
    """A tar file of these members; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def recipe_of(**settings: Any) -> Recipe:
    """A recipe of these transforms and the default ones."""
    return Recipe(ViewRecipe.model_validate(settings))


def view_of(crop: tuple[int, int, int, int], ops: tuple[tuple[int, float], ...] = ()) -> View:
    """A view of the standard recipe."""
    return ("random_resized_crop", crop), ("rand_augment", ops)


def merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of `tree` in which dictionaries are merged and everything else is replaced."""
    result = dict(tree)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if nested else value
    return result


def job_tree(**changes: Any) -> dict[str, Any]:
    """A small job as YAML would give it: two teachers of 3 + 5 dims and one captioner, which no test constructs."""
    tree = {
        "name": "tiny",
        "seed": 1,
        "input": {"shards": "in"},
        "output": {"path": "out"},
        "captioners": [{"name": "coca", "use": "lab:Coca", "num_captions": 2}],
        "teachers": [
            {"name": "one", "use": "lab:Clip", "dim": 3, "image_size": 16, "options": {"model": "M1", "weights": "w1"}},
            {"name": "two", "use": "lab:Clip", "dim": 5, "image_size": 24},
        ],
        "augmentation": {"num_views": 4, "random_resized_crop": {"size": 24}},
    }
    return merged(tree, changes)


def make_job(**changes: Any) -> Job:
    """`job_tree` as a Job."""
    return Job.model_validate(job_tree(**changes))


def make_sample(job: Job, key: str, width: int = 40, height: int = 30, **synthetic: list[str]) -> Sample:
    """A reinforced sample: views that the job draws, and random columns of norm 1. `synthetic`: captions by key."""
    rng = np.random.default_rng(len(key))
    captions = synthetic or {"syn_text": ["a cube", "a red thing"]}
    num_rows = {IMAGE: job.augmentation.num_views, TEXT: 1, **{name: len(texts) for name, texts in captions.items()}}
    columns: dict[Column, np.ndarray] = {}
    for of, rows in num_rows.items():
        for teacher in job.teachers:
            if teacher.encodes and ("images" if of == IMAGE else "texts") not in teacher.encodes:
                continue
            column = rng.standard_normal((rows, teacher.dim or 0)).astype(np.float32)
            columns[Column(teacher.name, of)] = column / np.linalg.norm(column, axis=1, keepdims=True)
    return Sample(
        key,
        {"jpg": image_bytes(), "txt": b"", "json": b"{}"},
        num_members=3,
        caption=f"alt-text of {key}",
        synthetic=captions,
        views=draw(width, height, job.augmentation, job.seed, key),
        columns=columns,
    )


def draw(width: int, height: int, augmentation: Augmentation, seed: int, key: str) -> tuple[View, ...]:
    """The views of an image that a job with this augmentation draws."""
    return recipe.draw(width, height, Recipe(augmentation), augmentation.num_views, seed, key)


def rename_as_others_do(folder: Path) -> None:
    """Give a folder's shards the names and the packing that other tools do: in turn `.TAR`, `.tar.gz`, `.tgz`."""
    for index, path in enumerate(sorted(folder.rglob("*.tar"))):
        ending = (".TAR", ".tar.gz", ".tgz")[index % 3]
        data = path.read_bytes()
        path.unlink()
        path.with_suffix(ending).write_bytes(gzip.compress(data, 1) if ending.endswith("gz") else data)
