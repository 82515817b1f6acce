"""Jobs and datasets to load from, without a student to train."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import Column
from dr_pipeline.training.data.batch import Batch
from dr_pipeline.training.data.loader import Loader
from dr_pipeline.training.data.rendering import StudentViews, views_for
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.training.distributed import Rank
from tests.conftest import GOLDEN, merged

GOLDEN_SHARDS = [GOLDEN / f"shards/{name}.tar" for name in ("v1_fp32", "v1_bf16", "v2_bf16")]
GOLDEN_TEACHERS = [{"name": "one", "dim": 32, "logit_scale": 7}, {"name": "two", "dim": 48, "logit_scale": 6}]
SIZE = 16


class Letters:
    """Tokens are letters: what a batch was made of can be read back."""

    def __call__(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[ord(letter) for letter in text.ljust(24)[:24]] for text in texts])


def train_job(shards: Path | str, **changes: Any) -> TrainJob:
    """A job that reads these shards in the training process itself."""
    tree = {
        "name": "tiny",
        "seed": 3,
        "data": {"shards": str(shards), "workers": 0, "shuffle_buffer": 4},
        "student": {"architecture": "unused"},
        "schedule": {"steps": 10, "batch_size": 2, "warmup_steps": 1},
        "run": {"path": "unused"},
    }
    return TrainJob.model_validate(merged(tree, changes))


def golden_job(shard: Path, **changes: Any) -> TrainJob:
    """A job on a golden shard, whose dataset has no config.json."""
    return train_job(shard, **merged({"data": {"teachers": GOLDEN_TEACHERS}}, changes))


def make_loader(
    job: TrainJob, batch_size: int = 2, rank: Rank | None = None, views: StudentViews | None = None
) -> Loader:
    """A loader for images of 16 px, by default rendered on the host."""
    training_set = open_training_set(job)
    views = views or views_for(job, training_set.recipe, SIZE, torch.device("cpu"))
    return Loader(job, training_set, Letters(), views, batch_size, rank or Rank())


def texts(tokens_BL: torch.Tensor) -> list[str]:
    """The captions that `Letters` made tokens of."""
    return ["".join(map(chr, row)).rstrip() for row in tokens_BL.tolist()]


def joined(columns: Mapping[Column, Any], of: str) -> np.ndarray:
    """The golden teachers' columns side by side, as they are stored."""
    return np.concatenate([columns[Column(str(teacher["name"]), of)] for teacher in GOLDEN_TEACHERS], axis=1)


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches are equal to the bit."""

    def equal(value: Any, its: Any) -> bool:
        if isinstance(value, dict):
            return value.keys() == its.keys() and all(equal(value[name], its[name]) for name in value)
        return torch.equal(value, its) if torch.is_tensor(value) else value == its

    return all(equal(value, vars(other)[name]) for name, value in vars(one).items())
