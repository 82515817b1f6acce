"""Runs that are killed at random moments, and started again until they end."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ray.cluster_utils import Cluster

from dr_pipeline.config.job import Job
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from dr_pipeline.verification.verify import verify
from tests.demo_job import QUICKSTART, Silent, demo_job, digests, small
from tests.ray_cluster import ray_workers

PLAIN_MODELS = '''
"""Models that load at once: what is killed is the pipeline, not torch's import."""

import time
from pathlib import Path

import torch

from dr_pipeline.models.protocol import ImageSpec, TeacherSpec

HALF = (0.5, 0.5, 0.5)
QUICK = Path(__file__).with_name("quick")


class Teacher:
    """Takes its time, unless there is a file that says otherwise."""

    def __init__(self, device):
        self.spec = TeacherSpec(image_size=32, mean=HALF, std=HALF, dim=4)

    def encode_images(self, images_BCHW):
        time.sleep(0 if QUICK.exists() else 0.15)
        return images_BCHW[:, :, :2, :2].mean(dim=1).flatten(1) + 3

    def encode_texts(self, texts):
        return torch.tensor([[len(text), 1.0, 2.0, ord(text[-1])] for text in texts])


class Captioner:
    def __init__(self, device):
        self.spec = ImageSpec(image_size=32, mean=HALF, std=HALF)

    def caption(self, images_BCHW, streams, sampling):
        return [[f"{float(image.mean()):.4f}" for _ in row] for image, row in zip(images_BCHW, streams)]
'''


class Bench:
    """Shards, models that load at once, and what an undisturbed run makes of them."""

    def __init__(self, folder: Path, scenes: Path, num_shards: int):
        self.folder, self.scenes, self.num_shards = folder, scenes, num_shards
        (folder / "plain_models.py").write_text(PLAIN_MODELS)
        self.finish("undisturbed")
        self.expected = digests(folder / "undisturbed")

    def overrides(self, *more: str) -> list[str]:
        return [
            "teachers=[{use: 'plain_models:Teacher'}]",
            "captioners=[{use: 'plain_models:Captioner', num_captions: 2}]",
            f"plugin_dirs=[{self.folder}]",
            *more,
        ]

    def job(self, name: str, *more: str) -> Job:
        return demo_job(self.scenes, self.folder / name, *self.overrides(*more))

    def command(self, name: str, *more: str) -> list[str]:
        """The same job as a user starts it."""
        overrides = [*small(self.scenes, self.folder / name), *self.overrides(*more)]
        return [sys.executable, "-m", "dr_pipeline", "run", str(QUICKSTART), *overrides]

    def finish(self, name: str) -> None:
        """Do what is left of a job, by models that take no time."""
        quick = self.folder / "quick"
        quick.touch()
        run(self.job(name), Silent())
        quick.unlink()

    def check(self, name: str) -> None:
        """The output equals the undisturbed one, all that is written of it is whole, and nothing else is left in it."""
        output = self.folder / name
        assert digests(output) == self.expected
        assert verify(str(output), Storage()).problems == []
        assert not list(output.rglob(".*")), "no temporary files"
        assert not (output / "run.json").exists()


def kill_drivers(bench: Bench, name: str, moments: random.Random, kills: int) -> int:
    """SIGKILL a local run at random moments, start it again, until it has been killed so often; the kills that hit."""
    hits = 0
    for _ in range(kills):
        begun = len(list((bench.folder / name).rglob("reports/*/*.json")))
        process = subprocess.Popen(bench.command(name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if begun < bench.num_shards:
            while not (bench.folder / name / "run.json").exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(moments.uniform(0.0, 2.5))
        if process.poll() is None:
            process.kill()
            hits += 1
        process.wait()
    bench.finish(name)
    return hits


def kill_workers_and_nodes(
    bench: Bench, name: str, cluster: Cluster, moments: random.Random, kills: int, pause_s: float
) -> Counter[str]:
    """While a run on Ray goes on, SIGKILL workers and whole nodes at random moments; what was killed, by kind."""
    job = bench.job(name, "workers.engine=ray", "workers.max=3", "workers.cpus=1", "errors.attempts=100")
    running = threading.Thread(target=run, args=(job, Silent()))
    running.start()
    killed: Counter[str] = Counter()
    ways: list[tuple[str, Callable[[], bool]]] = [("worker", lambda: _kill_worker(moments)),
                                                  ("node", lambda: _kill_node(cluster, moments))]  # fmt: skip
    while running.is_alive() and sum(killed.values()) < kills:
        time.sleep(moments.uniform(0.1, pause_s))
        kind, kill = moments.choice(ways)
        killed[kind] += running.is_alive() and kill()
    running.join()
    return +killed


def _kill_worker(moments: random.Random) -> bool:
    workers = ray_workers()
    if workers:
        os.kill(moments.choice(workers).pid, signal.SIGKILL)
    return bool(workers)


def _kill_node(cluster: Cluster, moments: random.Random) -> bool:
    """The raylet and all its workers die at once; another node takes its place."""
    nodes = [node for node in cluster.list_all_nodes() if node is not cluster.head_node]
    cluster.remove_node(moments.choice(nodes), allow_graceful=False)
    cluster.add_node(num_cpus=1)
    return True
