"""A run's folder: checkpoints, from which a killed run continues, and the identity of the run's job.

job.json                        the identity of the job that trains here, and digests of what it trains on
checkpoints/step-0000500.pt     everything the next step depends on
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dr_pipeline.config.job import differing_keys
from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.config_json import read_config
from dr_pipeline.errors import ConfigError, reason
from dr_pipeline.storage import Storage, refuse_ray_working_dir

_NAME = re.compile(r"step-(\d+)\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """The state after `step` steps. Random numbers need no state: each step's are seeded by its number."""

    step: int
    network: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any] | None
    """The moving average's state, when there is one."""
    loaders: list[Any]
    """Each rank's position in the data, plain JSON."""


class RunFolder:
    """Where one run keeps its files."""

    def __init__(self, job: TrainJob):
        if "://" in job.run.path:
            raise ConfigError(f"run.path {job.run.path}: a run's folder is local, or on a mounted file system")
        self.path = Path(job.run.path).absolute()
        refuse_ray_working_dir(str(self.path), "run.path")
        self._job = job
        self._storage = Storage()

    def claim(self, contents: dict[str, str]) -> None:
        """Make the folder this job's; `contents`: the digests of what it trains on, as far as they are known.

        Raises ConfigError when another job's run is there, also one of the same job on other data or weights, when the
        folder is part of a dataset, or is not writable.
        """
        self._refuse_datasets()
        record = self.path / "job.json"
        ours = {**self._job.identity(), "contents": contents}
        try:
            if record.exists():
                theirs = self._read(record)
                known = theirs["contents"]
                in_both = {name: digest for name, digest in known.items() if name in contents}
                changed = differing_keys({**theirs, "contents": {**contents, **in_both}}, ours)
                if changed:
                    lines = "\n".join(f"  {line}" for line in changed)
                    raise ConfigError(
                        f"run.path {self.path} holds a run of another configuration, or on other data or weights:\n"
                        f"{lines}\nChoose another folder, or remove that one."
                    )
                ours["contents"] = {**known, **contents}
            self._storage.write(str(record), json.dumps(ours, indent=1).encode())
        except OSError as error:
            raise ConfigError(f"run.path {self.path} cannot be written: {error}") from error

    def save(self, checkpoint: Checkpoint) -> None:
        """Publish a checkpoint whole, then remove those that are older than the ones to keep."""
        with self._storage.staged(str(self._file(checkpoint.step))) as path:
            torch.save(vars(checkpoint), path)
        for step in self._steps()[: -self._job.run.keep_checkpoints]:
            self._file(step).unlink()

    def newest(self) -> Checkpoint | None:
        """The state to go on from; None at the beginning. Raises ConfigError when it cannot be read."""
        steps = self._steps()
        if not steps:
            return None
        path = self._file(steps[-1])
        try:
            return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            raise ConfigError(
                f"{path} cannot be read ({error}): remove it to go on from the one before, or choose another run.path"
            ) from error

    def _steps(self) -> list[int]:
        names = (_NAME.fullmatch(path.name) for path in (self.path / "checkpoints").glob("*.pt"))
        return sorted(int(name.group(1)) for name in names if name)

    def _file(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:07d}.pt"

    def _read(self, record: Path) -> dict[str, Any]:
        """job.json. Raises ConfigError where a training run has not written it."""
        try:
            tree = json.loads(record.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{record} is not JSON: {reason(error)}: choose another run.path") from error
        if not isinstance(tree, dict) or not isinstance(tree.get("contents"), dict):
            raise ConfigError(f"{record} is not a training run's: choose another run.path")
        return tree

    def _refuse_datasets(self) -> None:
        """Raise ConfigError where the folder, or one around it, is a dataset's: it would become a part of that."""
        for folder in (self.path, *self.path.parents):
            try:
                config = read_config(str(folder), Storage())
            except (OSError, ConfigError):
                continue
            if config.keys() & {"dr_pipeline", "reinforce"}:
                raise ConfigError(f"run.path {self.path} lies in the dataset {folder}: choose a folder outside of it")
