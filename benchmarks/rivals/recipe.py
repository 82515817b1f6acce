"""What every contender of the whole job is told, and how it tells the benchmark's clock where it is."""

import json
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Recipe:
    """What every contender is told."""

    shards: str
    output: str
    stamps: str
    teachers: list[str]
    """Architectures of open_clip, filled with random weights, or folders that hold a config and its weights."""
    num_views: int
    view_size: int
    samples_per_batch: int
    workers: int
    threads: int
    """Torch's, in each worker."""
    engine: str
    """dr-pipeline's."""

    @classmethod
    def given(cls) -> Self:
        """The command line's."""
        return cls(**json.loads(sys.argv[1]))

    def stamp(self, what: str) -> None:
        """Tell the benchmark's clock that the models are `loaded`, or that all is `done`."""
        Path(self.stamps, f"{what}-{uuid.uuid4().hex}").touch()

    def loaded(self) -> None:
        """Tell the clock that this worker holds its models, and begin when all of them do."""
        self.stamp("loaded")
        while len(list(Path(self.stamps).glob("loaded-*"))) < self.workers:
            time.sleep(0.01)
