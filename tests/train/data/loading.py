"""Jobs and datasets to load from, without a student to train."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import IMAGE, TEXT
from dr_pipeline.train.data.batch import Batch
from dr_pipeline.train.data.dataset import open_dataset
from dr_pipeline.train.data.loader import Loader
from dr_pipeline.train.distributed import Rank
from tests.conftest import GOLDEN, merged
from tests.tars import read_reinforced, stored

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


def make_loader(job: TrainJob, batch_size: int = 2, rank: Rank | None = None) -> Loader:
    """A loader for images of 16 px."""
    return Loader(job, open_dataset(job), Letters(), SIZE, batch_size, rank or Rank())


def texts(tokens_BL: torch.Tensor | None) -> list[str]:
    """The captions that `Letters` made tokens of."""
    assert tokens_BL is not None
    return ["".join(map(chr, row)).rstrip() for row in tokens_BL.tolist()]


def stored_samples(path: Path) -> dict[str, tuple[dict[str, bytes], SimpleNamespace]]:
    """Every sample of a shard by key: its members, and what they hold."""
    return {
        key: (
            sample.members,
            SimpleNamespace(
                views=sample.views,
                synthetic=sample.synthetic,
                image_emb_ND=stored(sample, IMAGE),
                text_emb_TD=stored(sample, TEXT),
                synthetic_emb_TD={of: stored(sample, of) for of in sample.synthetic},
            ),
        )
        for key, sample in read_reinforced(path).items()
    }


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches are equal to the bit."""
    return all(
        torch.equal(value, vars(other)[name]) if torch.is_tensor(value) else value == vars(other)[name]
        for name, value in vars(one).items()
    )
