"""The whole job in the local engine, by the shipped recipe: how fast, how busy the device, how contended the lock."""

import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import torch
from photos import write_shards

from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.dataset.reports import ShardReport, ShardTask
from dr_pipeline.runners.local import LocalRunner
from on_gpu.bench import Bench
from on_gpu.captions import sampling
from on_gpu.models import CAPTIONER, TEACHER, write_tiny

_RECIPE = Path(__file__).parents[2] / "jobs" / "reinforce_dfn.yaml"
_WORDS = 25
_WHOLE = "the recipe, 30 views"


@dataclass
class Probe:
    """Two threads beside a job. One wakes every millisecond: what it oversleeps, it waited for the interpreter's lock
    and the scheduler, as the launching thread does after each call that let go of the lock. The other asks NVML, five
    times a second, for the part of the time in which a kernel ran.
    """

    device: torch.device
    waits_ms: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    _done: bool = False

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._wake, self._ask)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        for thread in self._threads:
            thread.join()

    def percentile_ms(self, percent: int) -> float:
        """Of the waits."""
        return sorted(self.waits_ms)[len(self.waits_ms) * percent // 100]

    def _wake(self) -> None:
        while not self._done:
            begun = time.perf_counter()
            time.sleep(1e-3)
            self.waits_ms.append(1e3 * (time.perf_counter() - begun) - 1)

    def _ask(self) -> None:
        while self.device.type == "cuda" and not self._done:
            time.sleep(0.2)
            self.busy.append(torch.cuda.utilization() / 100)


def measure(bench: Bench) -> None:
    """Print the recipe's figures, without its captioner, and with the two views of DFNDR-2B."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Probe(bench.device) as idle:
            time.sleep(bench.size(1.0, 0.05))
        bench.figure("wait for the lock, 99th percentile, idle", idle.percentile_ms(99), "ms")
        # The first shard warms up. The others fill batches of captions, of which a shard has its own.
        few, many = bench.size((3, 256), (2, 2)), bench.size((3, 768), (2, 3))
        small, large = write_shards(folder / "few", *few), write_shards(folder / "many", *many)
        for label, shards, changes in (
            (_WHOLE, small, {}),
            ("2 views", large, {"num_views": 2}),
            ("30 views, no captioner", small, {"captioners": ()}),
        ):
            with bench.attempt(label):
                _run(bench, label, _job(bench, folder, label, shards, **changes))


def _job(bench: Bench, folder: Path, label: str, shards: Path, **changes: Any) -> Job:
    """The recipe with the real architectures and no weights."""
    recipe = load(_RECIPE, Job, [f"input.shards={shards}", f"output.path={folder / 'out' / label}"])
    teacher, captioner = write_tiny(folder)
    teacher, captioner = bench.size(TEACHER, teacher), bench.size(CAPTIONER, captioner)
    words = bench.size(_WORDS, 3)
    tree = recipe.model_dump()
    size = bench.size(224, 32)
    tree |= {
        "teachers": [
            {"name": str(number), "use": "on_gpu.models:Teacher", "options": {"model": teacher}} for number in range(2)
        ],
        "captioners": [
            {
                "name": "coca",
                "use": "on_gpu.models:Captioner",
                "options": {"model": captioner},
                "tag": "coca",
                "sampling": sampling(words),
            }
        ],
    }
    tree |= {"captioners": changes["captioners"]} if "captioners" in changes else {}
    tree["workers"] |= {"engine": "local", "cpus": bench.size(recipe.workers.cpus, 1)}
    tree["augmentation"]["num_views"] = changes.get("num_views", bench.size(recipe.augmentation.num_views, 3))
    tree["augmentation"]["random_resized_crop"]["size"] = size
    return Job.model_validate(tree)


def _run(bench: Bench, label: str, job: Job) -> None:
    """All shards but the first, which warms up."""
    runner = LocalRunner(job)
    runner.start()
    try:
        first, *others = make_plan(job).todo
        _reports(runner, [first])
        cpu, begun = time.process_time(), time.perf_counter()
        with Probe(bench.device) as probe:
            reports = _reports(runner, others)
        wall = time.perf_counter() - begun
        cpu = time.process_time() - cpu
    finally:
        runner.close()
    samples = sum(report.num_written for report in reports)
    bare = _bare_seconds(bench, job, reports)
    if label == _WHOLE:
        bench.remember("a sample of the recipe", wall / samples)
    bench.figure(f"samples/s, {label}", samples / wall, "samples/s", samples / bare if bare else None)
    bench.figure(f"views/s, {label}", sum(report.num_views for report in reports) / wall, "views/s")
    drawn = sum(counts["drawn"] for report in reports for counts in report.captions.values())
    if drawn:
        captioning = sum(report.seconds["caption"] for report in reports)
        best = 1 / bench.bare["caption"] if "caption" in bench.bare else None
        bench.figure(f"captions/s while the captioner works, {label}", drawn / captioning, "captions/s", best)
    num_texts = sum(report.num_written + report.num_synthetic for report in reports)
    bench.figure(f"texts/s a teacher, {label}", num_texts / wall, "texts/s")
    if probe.busy:
        bench.figure(f"device busy by NVML, {label}", fmean(probe.busy), "", 1.0)
    bench.figure(f"wait for the lock, 99th percentile, {label}", probe.percentile_ms(99), "ms")
    bench.figure(f"wait for the lock, median, {label}", probe.percentile_ms(50), "ms")
    bench.figure(f"CPU-ms a sample, {label}", 1e3 * cpu / samples, "ms")
    for stage in ("decode", "render", "caption", "embed_images", "tokenize", "embed_texts", "encode", "write"):
        seconds = sum(report.seconds.get(stage, 0.0) for report in reports)
        bench.figure(f"ms a sample in {stage}, all threads, {label}", 1e3 * seconds / samples, "ms")
    for what in ("views", "captions", "texts", "collect", "turn"):
        seconds = sum(report.waited_seconds.get(what, 0.0) for report in reports)
        bench.figure(f"ms a sample waited to {what}, {label}", 1e3 * seconds / samples, "ms")


def _reports(runner: LocalRunner, tasks: Sequence[ShardTask]) -> list[ShardReport]:
    reports = list(runner.run(tasks))
    for report in reports:
        assert report.status == "done", report.error
    return reports


def _bare_seconds(bench: Bench, job: Job, reports: Sequence[ShardReport]) -> float | None:
    """The device's time for these shards at the best bare rates of this run; None where one was not measured."""
    texts = sum(report.num_written + report.num_synthetic for report in reports)
    captions = sum(card.num_captions for card in job.captioners) * sum(report.num_written for report in reports)
    counts = {
        "image": len(job.teachers) * sum(report.num_views for report in reports),
        "text": len(job.teachers) * texts,
        "caption": captions,
    }
    if any(counts[name] and name not in bench.bare for name in counts):
        return None
    return sum(count * bench.bare[name] for name, count in counts.items() if count)
