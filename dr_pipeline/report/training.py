"""The progress of a training run: a bar on a terminal, plain lines elsewhere, JSON lines for machines."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict

from rich.progress import TextColumn, TimeRemainingColumn

from dr_pipeline.config.training import TrainJob
from dr_pipeline.networks.classifier import Classifier
from dr_pipeline.networks.network import Network
from dr_pipeline.redaction import printable
from dr_pipeline.report.terminal import FiguresBar, draws_bars, print_line
from dr_pipeline.report.units import in_clock
from dr_pipeline.training.data.training_set import TrainingSet
from dr_pipeline.training.metrics import StepMetrics
from dr_pipeline.words import plural

_LINE_EVERY_SECONDS = 30.0
_FIRST_STEPS = 3


class TrainingBar:
    """A bar of steps with loss, rate and data wait."""

    def __init__(self) -> None:
        self._progress = FiguresBar("steps", TextColumn("left"), TimeRemainingColumn())

    def started(self, job: TrainJob, training_set: TrainingSet, network: Network | Classifier, step: int) -> None:
        """Say what is trained on what; show the bar."""
        self._progress.print_above(_describe(job, training_set, network, step))
        self._progress.start()
        self._bar = self._progress.add_task(
            printable(job.name), total=job.schedule.last_step, completed=step, figures="loading"
        )

    def stepped(self, record: StepMetrics) -> None:
        """Move the bar."""
        self._progress.update(self._bar, completed=record.step, figures=_figures(record))

    def evaluated(self, step: int, results: dict[str, float]) -> None:
        """A line above the bar."""
        self._progress.print_above(f"after step {step}: {first_figures(results)}")

    def close(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


class TrainingLines:
    """A line for each of the first steps, then one every half minute, for logs."""

    def started(self, job: TrainJob, training_set: TrainingSet, network: Network | Classifier, step: int) -> None:
        """Say what is trained on what."""
        self._last_step, self._first_step = job.schedule.last_step, step
        self._mark: tuple[int, float] | None = None
        self._printed = time.monotonic()
        print_line(_describe(job, training_set, network, step))

    def stepped(self, record: StepMetrics) -> None:
        """Print the figures of a first step, of one every half minute, and of the last."""
        now, last_step = time.monotonic(), self._last_step
        is_first = record.step - self._first_step <= _FIRST_STEPS
        if is_first or now - self._printed >= _LINE_EVERY_SECONDS or record.step == last_step:
            self._printed = now
            print_line(f"step {record.step} of {last_step}{self._left(record.step, now)}; {_figures(record)}")

    def evaluated(self, step: int, results: dict[str, float]) -> None:
        """Print the evaluation's first figures."""
        print_line(f"after step {step}: {first_figures(results)}")

    def close(self) -> None:
        """Lines need no end."""

    def _left(self, step: int, now: float) -> str:
        """The time that is left; the first step, which waits for the loaders to start, does not count."""
        self._mark = self._mark or (step, now)
        first_step, begun = self._mark
        steps_left = self._last_step - step
        if step == first_step or not steps_left:
            return ""
        return f", {in_clock(steps_left * (now - begun) / (step - first_step))} left"


class TrainingJson:
    """A JSON object per step on standard output."""

    def started(self, job: TrainJob, training_set: TrainingSet, network: Network | Classifier, step: int) -> None:
        """An object with the steps done and to do."""
        print(json.dumps({"event": "started", "step": step, "steps": job.schedule.last_step}), flush=True)

    def stepped(self, record: StepMetrics) -> None:
        """One object per step."""
        print(json.dumps({"event": "step", **asdict(record)}), flush=True)

    def evaluated(self, step: int, results: dict[str, float]) -> None:
        """One object per evaluation."""
        print(json.dumps({"event": "evaluation", "step": step, **results}), flush=True)

    def close(self) -> None:
        """Lines need no end."""


def training_display(as_json: bool) -> TrainingBar | TrainingLines | TrainingJson:
    """The display that suits where the output goes."""
    if as_json:
        return TrainingJson()
    return TrainingBar() if draws_bars() else TrainingLines()


def _describe(job: TrainJob, training_set: TrainingSet, network: Network | Classifier, step: int) -> str:
    """Lines about the student, the samples and the teachers of a run that starts."""
    schedule = job.schedule
    samples = schedule.last_step * schedule.batch_size
    part = f"{schedule.stop_at:,} of " if schedule.stop_at else ""
    parameters = sum(parameter.numel() for parameter in network.module.parameters())
    held = plural(len(training_set.uris), "shard")
    if training_set.num_samples:
        held += f" of {plural(training_set.num_samples, 'sample')}: {samples / training_set.num_samples:.1f} epochs"
    lines = [
        f"{job.name}: {network.name}, {parameters / 1e6:.1f} M parameters, {network.image.image_size} px",
        f"  {part}{plural(schedule.steps, 'step')} × {schedule.batch_size:,} = {samples:,} samples; {held}",
    ]
    dims = {teacher.name: teacher.dim for teacher in training_set.teachers}
    if training_set.scales:
        teachers = [f"{name} ({dims[name]} dims, logit scale {scale:g})" for name, scale in training_set.scales.items()]
        lines.append(f"  teachers: {', '.join(teachers)}; λ = {job.distillation.weight:g}")
    for name, (weight, scale) in training_set.affinities.items():
        lines.append(f"  affinity: {name} ({dims[name]} dims, logit scale {scale:g}), weight {weight:g}")
    if step:
        lines.append(f"  going on after step {step}")
    return "\n".join(lines)


def _figures(record: StepMetrics) -> str:
    """A step's figures on one line."""
    skipped = f", {record.skipped} skipped" if record.skipped else ""
    return (
        f"loss {record.loss:.3f}, {record.samples_per_second:,.0f} samples/s, "
        f"data wait {record.wait_fraction:.0%}{skipped}"
    )


def first_figures(results: Mapping[str, float]) -> str:
    """An evaluation's first figures, in per cent; the log has all."""
    return ", ".join(f"{name} {value:.1%}" for name, value in results.items() if name.endswith(("acc1", "_r1")))
