"""Small real datasets and students: golden shards, reinforced scenes, towers of a few thousand weights."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dr_pipeline.config.job import Job
from dr_pipeline.config.training import TrainJob
from dr_pipeline.runners.run import run
from dr_pipeline.training.metrics import StepMetrics
from dr_pipeline.training.trainer import Trainer
from tests.conftest import GOLDEN, merged
from tests.demo_job import Silent, demo_job, make_scenes

WORDS = "dr_pipeline.demo.tokenizer:WordTokenizer"
TEXT_TOWER = {"context_length": 16, "vocab_size": 304, "width": 32, "heads": 2, "layers": 1}
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": TEXT_TOWER,
}
CONVOLUTIONAL = {**CLIP, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}
COCA = {
    **CLIP,
    "embed_dim": 32,
    "vision_cfg": {**CLIP["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TEXT_TOWER, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 16, "vocab_size": 304, "width": 32, "heads": 2, "layers": 1},
}

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
"""Two ranks that meet at a port of their own: by itself torchrun takes the same one for everybody."""

GOLDEN_TEACHERS = [{"name": "one", "dim": 32, "logit_scale": 7}, {"name": "two", "dim": 48, "logit_scale": 6}]

MakeJob = Callable[..., TrainJob]


def train_job(folder: Path, network: dict[str, Any] = CLIP, **changes: Any) -> TrainJob:
    """A job of few steps on a golden shard, which trains in `folder`/run; `changes` are merged into its tree,
    `network` is the tower's config.
    """
    architecture = folder / "architecture.json"
    architecture.write_text(json.dumps({"model_cfg": network}))
    tree = {
        "name": "tiny",
        "data": {"shards": str(GOLDEN / "shards/v2_bf16.tar"), "teachers": GOLDEN_TEACHERS, "workers": 0},
        "student": {"architecture": str(architecture), "tokenizer": WORDS},
        "schedule": {"steps": 6, "batch_size": 4, "warmup_steps": 1, "learning_rate": 1e-3},
        "run": {"path": str(folder / "run"), "log_every": 1, "checkpoint_every": 4},
    }
    return TrainJob.model_validate(merged(tree, changes))


def take_step(trainer: Trainer) -> StepMetrics:
    """Take one of the steps that are left, and wait for its metrics."""
    return next(trainer.steps(lambda _: True))


@pytest.fixture
def make_train_job(tmp_path: Path) -> MakeJob:
    """`train_job` in the test's folder."""
    return partial(train_job, tmp_path)


@pytest.fixture(scope="session")
def reinforced_scenes(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The job that made a small reinforced dataset of scenes, with embeddings in float32."""
    folder = tmp_path_factory.mktemp("scenes")
    job = demo_job(make_scenes(folder / "base", 2, 12), folder / "reinforced", "output.precision=float32")
    run(job, Silent())
    return job
