"""Tells training runs from datasets, and which run it is, without loading what their pages need."""

import json
from operator import index
from pathlib import Path
from typing import Any

from dr_pipeline.errors import ConfigError, reason

RUN_FILE, TUNING_FILE = "job.json", "tuning.json"
"""What a training run and a tuning leave in their folders, and no dataset has."""


def is_run(path: str) -> bool:
    """Whether a path is the folder of a training run, or of a tuning."""
    return any(Path(path, file).is_file() for file in (RUN_FILE, TUNING_FILE))


def runs_below(folder: str) -> list[str]:
    """The training runs that lie in a folder or in the folders of it, as a tuning's do, in the order of their names."""
    return sorted(str(file.parent) for below in ("*", "*/*") for file in Path(folder).glob(f"{below}/{RUN_FILE}"))


def read_identity(folder: str) -> dict[str, Any]:
    """The identity of a training run, by its job.json: all that decides the weights, with digests of its contents.

    Raises ConfigError where the folder is no run's.
    """
    try:
        job: dict[str, Any] = json.loads(Path(folder, RUN_FILE).read_text(encoding="utf-8"))
        index(job["schedule"]["steps"]), job["student"]["architecture"], job["data"]["shards"], job["contents"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(_no_run(folder, error)) from error
    return job


def _no_run(folder: str, error: Exception) -> str:
    """Why a folder is no training run's, where its job.json cannot be read, and what to name instead."""
    path, instead = Path(folder), "name the folder of a training run, its job's run.path"
    if not path.exists():
        return f"{folder}: there is no such folder: {instead}"
    if not path.is_dir():
        return f"{folder} is a file: {instead}"
    if Path(path, TUNING_FILE).is_file():
        return f"{folder} is a tuning's folder: {instead}; those of a tuning are in it, by teacher and scale"
    if not Path(path, RUN_FILE).exists():
        return f"{folder} is no training run's folder, for it has no {RUN_FILE}: {instead}"
    return f"{folder} is no training run's folder: its {RUN_FILE} cannot be read: {reason(error)}"
