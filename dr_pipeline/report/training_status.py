"""How far a training run is, by what is stored in its folder alone."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dr_pipeline.report.runs.folder import read_run
from dr_pipeline.report.training import first_figures
from dr_pipeline.report.units import in_clock

_LEAST_SILENCE_SECONDS = 120.0
_SILENT_RECORDS = 10
"""A run that has logged nothing for as long as so many of its records took does not move."""


@dataclass(frozen=True)
class TrainingStatus:
    """A training run."""

    folder: str
    state: str
    """`running`, `silent` or `finished`."""
    name: str
    step: int
    last_step: int
    loss: float | None
    samples_per_second: float | None
    seconds_left: float | None
    seconds_silent: float | None
    """Since its log has grown."""
    evaluation: dict[str, Any] | None
    """The last one."""
    checkpoint: str | None
    """The newest, from which the run would go on."""

    @property
    def needs_care(self) -> bool:
        """Whether somebody has to look: it does not move, and is not through."""
        return self.state == "silent"

    def __str__(self) -> str:
        ago = f"its log grew {in_clock(self.seconds_silent)} ago" if self.seconds_silent is not None else "no log yet"
        said = "finished" if self.state == "finished" else f"running, {ago}"
        if self.state == "silent":
            said = f"it does not move, {ago}; if its process has ended, run the same command again to go on"
        lines = [f"{self.folder}: {self.name}, step {self.step:,} of {self.last_step:,}: {said}"]
        if self.loss is not None:
            left = f", {in_clock(self.seconds_left)} left" if self.seconds_left and self.state == "running" else ""
            lines.append(f"loss {self.loss:.3f}, {self.samples_per_second:,.0f} samples/s{left}")
        if self.evaluation:
            lines.append(f"evaluated after step {self.evaluation['step']:,}: {first_figures(self.evaluation)}")
        lines.append(f"last checkpoint: {self.checkpoint or 'none yet'}")
        return "\n".join(lines)


def training_status(folder: Path) -> TrainingStatus:
    """How far the run in a folder is. Raises ConfigError where its files are damaged."""
    run = read_run(str(folder))
    last = run.steps[-1] if run.steps else None
    log, silent = folder / "log.jsonl", None
    if log.exists():
        silent = max(0.0, time.time() - log.stat().st_mtime)
    record_seconds = 0.0
    if last and last["samples_per_second"] and len(run.steps) > 1:
        record_seconds = (last["samples"] - run.steps[-2]["samples"]) / last["samples_per_second"]
    checkpoints = sorted((folder / "checkpoints").glob("step-*.pt"))
    state = "running"
    if run.step >= run.last_step and run.model:
        state = "finished"
    elif silent is None or silent > max(_LEAST_SILENCE_SECONDS, _SILENT_RECORDS * record_seconds):
        state = "silent"
    left = None
    if last and last["samples_per_second"] and last["step"]:
        left = (run.last_step - run.step) * last["samples"] / last["step"] / last["samples_per_second"]
    return TrainingStatus(
        folder=str(folder),
        state=state,
        name=run.name,
        step=run.step,
        last_step=run.last_step,
        loss=last["loss"] if last else None,
        samples_per_second=last["samples_per_second"] if last else None,
        seconds_left=left,
        seconds_silent=silent,
        evaluation=run.evaluations[-1] if run.evaluations else None,
        checkpoint=checkpoints[-1].name if checkpoints else None,
    )
