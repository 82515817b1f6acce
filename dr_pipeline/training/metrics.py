"""The metrics of a training run: log.jsonl, TensorBoard's events, and curves.png at the end."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dr_pipeline.config.extras import how_to_install, is_installed
from dr_pipeline.redaction import printable
from dr_pipeline.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one step. Rates are means over some 20 steps, on all ranks together."""

    step: int
    samples: int
    """Seen so far, on all ranks."""
    loss: float
    """Of this step's global batch."""
    learning_rate: float
    logit_scale: float
    """1 for a classifier, which has none."""
    gradient_norm: float
    """Before clipping."""
    samples_per_second: float
    wait_fraction: float
    """The part of the time in which there was nothing to compute, for the next batch was not there."""
    skipped: int
    """Unusable samples since this process began, on the leading rank."""
    skip_reasons: dict[str, int]
    """The same by reason."""
    losses: dict[str, float]
    """The weighted parts that the loss is the sum of, such as those of ground-truth and of synthetic captions."""


class MetricsLog:
    """The log of one run. A resumed run drops what was logged after its checkpoint."""

    def __init__(self, folder: Path, step: int):
        self._path = folder / "log.jsonl"
        kept = [record for record in read_metrics(folder) if record["step"] <= step]
        Storage().write(str(self._path), "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = self._path.open("a", encoding="utf-8")
        self._board: Any = None
        if is_installed("tensorboard"):
            # Seconds to import, and nothing that reads a log needs it.
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        for package in ("tensorboard", "matplotlib"):
            if not is_installed(package):
                log.warning("log.jsonl is written, but what shows it as curves needs %s", how_to_install(package))

    def step(self, metrics: StepMetrics) -> None:
        """Append the metrics of a step."""
        self._write({"event": "step", **asdict(metrics)})
        told = {"step", "samples", "skip_reasons", "losses"}
        self._show("train", {name: value for name, value in asdict(metrics).items() if name not in told}, metrics.step)
        self._show("losses", metrics.losses, metrics.step)

    def evaluation(self, step: int, samples: int, figures: dict[str, float]) -> None:
        """Append the figures of an evaluation after a step."""
        self._write({"event": "evaluation", "step": step, "samples": samples, **figures})
        self._show("evaluation", figures, step)

    def close(self) -> None:
        """Write what is buffered and close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _show(self, group: str, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items() if self._board is not None else ():
            self._board.add_scalar(f"{group}/{name}", value, step)

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log.jsonl, in order; a line that a kill cut short, or a disk damaged, is left out."""
    path = folder / "log.jsonl"
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [record for record in records if isinstance(record, dict) and _is_whole(record)]


def _is_whole(record: dict[str, Any]) -> bool:
    """Whether a line has what each of its kind has."""
    is_step = record.get("event") == "step"
    numbers = ["step", "samples", "loss", "samples_per_second"] if is_step else ["step", *figures_of(record)]
    return "event" in record and all(isinstance(record.get(name), int | float) for name in numbers)


def figures_of(evaluation: dict[str, Any]) -> dict[str, float]:
    """The figures of one evaluation, from 0 to 1."""
    return {name: value for name, value in evaluation.items() if name not in ("event", "step", "samples")}


def draw_curves(folder: Path) -> Path | None:
    """curves.png: loss, learning rate and, where there are any, the evaluations against the samples seen.

    None without Matplotlib.
    """
    if not is_installed("matplotlib"):
        return None
    from matplotlib.figure import Figure  # a second to import, once a run

    records = read_metrics(folder)
    steps = [record for record in records if record["event"] == "step"]
    evaluations = [record for record in records if record["event"] == "evaluation"]
    panels = ["loss", "learning_rate", "samples_per_second"] + (["evaluation"] if evaluations else [])
    figure = Figure(figsize=(4 * len(panels), 3.2), layout="constrained")
    for name, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel("samples seen")
        axes.grid(alpha=0.3)
        if name == "evaluation":
            for figure_name in (key for key in evaluations[-1] if key not in ("event", "step", "samples")):
                seen = [(record["samples"], record[figure_name]) for record in evaluations if figure_name in record]
                axes.plot(*zip(*seen, strict=True), marker="o", label=printable(figure_name))
            axes.legend(fontsize="small")
        else:
            axes.plot([record["samples"] for record in steps], [record[name] for record in steps])
    with Storage().staged(str(folder / "curves.png")) as path:
        figure.savefig(path, format="png", dpi=120)
    return folder / "curves.png"
