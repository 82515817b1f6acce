"""Dataset reinforcement for image-text data, as functions that programs call. README.md has the tour.

A reinforcing job, from its file to checked shards:

    job = dr_pipeline.load_job("jobs/quickstart.yaml", ["workers.engine=local"])
    result = dr_pipeline.run(job)
    print(dr_pipeline.verify(job.output.path))

Another codebase trains on the shards with `open_dataset` and `distillation_loss`. What is named here stays; modules may
change. A name loads what it needs when it is first used, so that importing the package is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dr_pipeline.config.job import Job as Job
    from dr_pipeline.config.jobfile import load_job as load_job
    from dr_pipeline.config.jobfile import load_train_job as load_train_job
    from dr_pipeline.config.training import TrainJob as TrainJob
    from dr_pipeline.errors import ConfigError as ConfigError
    from dr_pipeline.errors import ModelError as ModelError
    from dr_pipeline.errors import PipelineError as PipelineError
    from dr_pipeline.errors import ShardError as ShardError
    from dr_pipeline.runners.run import RunObserver as RunObserver
    from dr_pipeline.runners.run import RunResult as RunResult
    from dr_pipeline.runners.run import run as run
    from dr_pipeline.runners.student import train as train
    from dr_pipeline.storage import StorageError as StorageError
    from dr_pipeline.training.losses import Embeddings as Embeddings
    from dr_pipeline.training.losses import clip_loss as clip_loss
    from dr_pipeline.training.losses import distillation_loss as distillation_loss
    from dr_pipeline.training.reinforced import ReinforcedDataset as ReinforcedDataset
    from dr_pipeline.training.reinforced import open_dataset as open_dataset
    from dr_pipeline.training.train import TrainCallback as TrainCallback
    from dr_pipeline.training.train import TrainResult as TrainResult
    from dr_pipeline.verification.findings import Findings as Findings
    from dr_pipeline.verification.verify import verify as verify

_MODULES = {
    "config.job": ["Job"],
    "config.jobfile": ["load_job", "load_train_job"],
    "config.training": ["TrainJob"],
    "errors": ["ConfigError", "ModelError", "PipelineError", "ShardError"],
    "runners.run": ["RunObserver", "RunResult", "run"],
    "runners.student": ["train"],
    "storage": ["StorageError"],
    "training.losses": ["Embeddings", "clip_loss", "distillation_loss"],
    "training.reinforced": ["ReinforcedDataset", "open_dataset"],
    "training.train": ["TrainCallback", "TrainResult"],
    "verification.findings": ["Findings"],
    "verification.verify": ["verify"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
