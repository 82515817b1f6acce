"""One contender of the whole job at work, in processes of its own: what it took, and whether all is there."""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory_of_tree import PeakMemory

RIVALS = Path(__file__).parent / "rivals"


@dataclass(frozen=True)
class Work:
    """What all contenders of a comparison do: shards, teachers, views."""

    shards: Path
    num_samples: int
    teachers: tuple[str, ...]
    view_size: int
    num_views: int
    samples_per_batch: int

    @property
    def total_views(self) -> int:
        return self.num_samples * self.num_views


@dataclass(frozen=True)
class Contender:
    """A program of rivals/, and how it shares two cores out."""

    name: str
    program: str
    workers: int
    threads: int
    engine: str = "ray"
    writes: bool = True


@dataclass(frozen=True)
class Took:
    """One run. The clock starts when every worker holds its models, or with the process."""

    loaded_s: float
    whole_s: float
    peak_gib: float


def measure(contender: Contender, work: Work) -> Took:
    """Run it. Raises RuntimeError where it fails or a sample is missing."""
    with tempfile.TemporaryDirectory() as name:
        output, stamps = Path(name, "out"), Path(name, "stamps")
        output.mkdir()
        stamps.mkdir()
        command = [sys.executable, str(RIVALS / f"{contender.program}.py")]
        recipe = _recipe(contender, work) | {"output": str(output), "stamps": str(stamps)}
        begun = time.time()
        peak_gib = _run([*command, json.dumps(recipe)], contender)
        if contender.writes and count_samples(output) != work.num_samples:
            raise RuntimeError(f"{contender.name} wrote {count_samples(output)} of {work.num_samples} samples")
        loaded = sorted(path.stat().st_mtime for path in stamps.glob("loaded-*"))
        done = max(path.stat().st_mtime for path in stamps.glob("done-*"))
        # Workers begin when there are as many as there ought to be; an engine may start more of them later.
        all_loaded = loaded[contender.workers - 1] if contender.program != "own_job" else loaded[0]
        return Took(done - all_loaded, done - begun, peak_gib)


def _recipe(contender: Contender, work: Work) -> dict[str, Any]:
    return {
        "shards": str(work.shards),
        "teachers": work.teachers,
        "num_views": work.num_views,
        "view_size": work.view_size,
        "samples_per_batch": work.samples_per_batch,
        "workers": contender.workers,
        "threads": contender.threads,
        "engine": contender.engine,
    }


def _run(command: list[str], contender: Contender) -> float:
    """The peak of its memory in GiB."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(RIVALS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": str(contender.threads),
        "RAY_ADDRESS": "local",  # a cluster of its own, whatever else runs here
        "DO_NOT_TRACK": "1",  # Daft would report its use
    }
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        with PeakMemory(process.pid) as memory:
            code = process.wait()
        if code:
            said.seek(0)
            raise RuntimeError(f"{contender.name} ended with {code}: {said.read()[-2000:]}")
    return memory.peak_gib


def count_samples(output: Path) -> int:
    """The samples in all tars below a folder: those that have all they ought to."""
    complete = 0
    for path in output.rglob("*.tar"):
        with tarfile.open(path) as tar:
            members = [name.partition(".")[2] for name in tar.getnames()]
        of_each = [members.count(member) for member in ("jpg", "txt", "syn.json", "paug.json")]
        of_each.append(members.count("pth") + members.count("pth.gz"))
        complete += min(of_each)
    return complete
