"""A worker at its steady pace, on parts of one shard, into a folder that is removed: what a calibration measures."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Input, Job
from dr_pipeline.dataset.reports import ShardReport, ShardTask
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.shard_io import read_samples, write_samples
from dr_pipeline.errors import ConfigError, PipelineError, SampleSkipped
from dr_pipeline.networks.device import pick_device
from dr_pipeline.reinforce.model_times import DecodedSample
from dr_pipeline.reinforce.prepare import decode_sample
from dr_pipeline.runners.local import LocalRunner
from dr_pipeline.storage import Storage
from dr_pipeline.words import plural

_WARM_UP_SAMPLES = 8
_PART_SECONDS, _BATCH_SECONDS = 6.0, 20.0
_NUM_PARTS = 6
"""The first and the last keep the worker busy while those between them are timed."""
_MOST_SAMPLES = 2048
"""Of a part."""


@dataclass(frozen=True)
class SteadyRun:
    """What a worker took."""

    teachers: tuple[TeacherCard, ...]
    """With what the loaded teachers say of themselves."""
    start_s: float
    """To load the models."""
    seconds: float
    """Of the parts that count, from the end of the one before to the end of the last."""
    counted: tuple[ShardReport, ...]
    others: tuple[ShardReport, ...]
    """Those of the warm-up, and of the first and the last part."""

    @property
    def num_samples(self) -> int:
        """The samples that count, those that were skipped or filtered too."""
        return sum(report.num_read for report in self.counted)

    def ms_of(self, *stages: str) -> float:
        """What a sample took of these stages, on all threads together."""
        seconds = sum(report.seconds.get(stage, 0.0) for report in self.counted for stage in stages)
        return 1000 * seconds / self.num_samples


class ShardSamples:
    """The samples of one shard, over and over: after the last comes the first."""

    def __init__(self, job: Job, task: ShardTask):
        self._job, self._task = job, task
        self._endless = chain.from_iterable(self._once() for _ in repeat(None))

    def decoded(self, count: int) -> list[DecodedSample]:
        """Those of the first `count` that can be reinforced, at least one. Raises ConfigError where none can be."""
        found, problems = [], []
        for sample in islice(self._once(), count):
            try:
                found.append(DecodedSample(sample, decode_sample(sample, self._job)))
            except SampleSkipped as skip:
                problems.append(f"{sample.key}: {skip}")
        if not found:
            of_them = (
                f"none of its first {plural(len(problems), 'sample')} can be reinforced; {problems[0]}"
                if problems
                else ""
            )
            why = of_them or "it has no sample that can be read"
            raise ConfigError(f"--calibrate {self._task.name}: {why}: name another shard")
        return found

    def count(self, most: int) -> int:
        """How many there are, or `most`."""
        return sum(1 for _ in islice(self._once(), most))

    def write(self, path: Path, count: int) -> ShardTask:
        """Make a shard of the next of them."""
        path.parent.mkdir(exist_ok=True)
        digest = write_samples(path, islice(self._endless, count))
        return ShardTask(path.name, str(path), digest.size_bytes)

    def _once(self) -> Iterator[Sample]:
        """Those whose members can be read; a worker skips the others, which takes no time."""
        try:
            with Storage(self._job.input.storage).open(self._task.uri) as stream:
                for sample in read_samples(stream, max_member_bytes=self._job.errors.max_member_bytes):
                    if not sample.skip:
                        yield sample
        except (OSError, PipelineError) as error:
            raise ConfigError(f"--calibrate {self._task.name}: it cannot be read: {error}") from error


def run_steadily(job: Job, samples: ShardSamples) -> SteadyRun:
    """Have a worker as the local runner's reinforce parts of a shard. Raises ConfigError, ModelError, PipelineError."""
    with TemporaryDirectory(prefix="dr-pipeline-calibration-") as name:
        source = Input(shards=f"{name}/in", root=f"{name}/in", caption=job.input.caption)
        output = job.output.model_copy(update={"path": f"{name}/out", "storage": {}})
        runner = LocalRunner(job.model_copy(update={"input": source, "output": output}))
        try:
            begun = time.perf_counter()
            teachers = runner.start()
            start_s = time.perf_counter() - begun
            few = samples.count(_WARM_UP_SAMPLES)
            cold, warm = (_timed(runner, [samples.write(Path(name, f"in/{part}.tar"), few)]) for part in "ab")
            size = _part_samples(job, samples, sample_s=warm[0].seconds / few)
            parts = _timed(runner, [samples.write(Path(name, f"in/{part}.tar"), size) for part in range(_NUM_PARTS)])
        finally:
            runner.close()
    first, *counted, last = parts
    if not any(part.report.num_written for part in counted):
        raise PipelineError("--calibrate: the job's scorers filter all of these samples: name another shard")
    seconds = counted[-1].seconds - first.seconds
    others = (*cold, *warm, first, last)
    return SteadyRun(teachers, start_s, seconds, *(tuple(part.report for part in some) for some in (counted, others)))


class _Ended(NamedTuple):
    """A part that is done, and how many seconds after the first began."""

    seconds: float
    report: ShardReport


def _part_samples(job: Job, samples: ShardSamples, sample_s: float) -> int:
    """How many samples a part has: some seconds' work, and a batch of captions, as in larger shards, if that is soon.

    No part has a sample twice.
    """
    batch = job.workers.batches(pick_device().type).captions
    several = max(_PART_SECONDS / sample_s, min(batch, _BATCH_SECONDS / sample_s), _WARM_UP_SAMPLES)
    return samples.count(min(_MOST_SAMPLES, round(several)))


def _timed(runner: LocalRunner, tasks: Sequence[ShardTask]) -> list[_Ended]:
    """Run the parts. Raises PipelineError where one fails."""
    ends, begun = [], time.perf_counter()
    for report in runner.run(tasks):
        if report.status == "failed":
            raise PipelineError(f"--calibrate: a run would fail with this shard: {report.error}")
        ends.append(_Ended(time.perf_counter() - begun, report))
    return ends
