"""Tells training runs from datasets, without loading what their pages need."""

from pathlib import Path

RUN_FILE, TUNING_FILE = "job.json", "tuning.json"
"""What a training run and a tuning leave in their folders, and no dataset has."""


def is_run(path: str) -> bool:
    """Whether a path is the folder of a training run, or of a tuning."""
    return any(Path(path, file).is_file() for file in (RUN_FILE, TUNING_FILE))
