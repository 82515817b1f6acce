"""What was measured of a job on one machine, beside what was assumed, and the `assumptions` that follow from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from dr_pipeline.dataset.reports import describe_usage

_QUIET = 0.5
"""Tasks a core, of others; with more a machine counts as busy."""


@dataclass(frozen=True)
class Measured:
    """A figure, and what stood for it before."""

    name: str
    measured: float
    assumed: float | None
    """None where nothing was known."""


@dataclass(frozen=True)
class Calibration:
    """How long a worker took on this machine."""

    shard: str
    device: str
    num_samples: int
    """Those whose time counts."""
    num_skipped: int
    """Of these."""
    seconds: float
    """All of it, loading included."""
    load: float
    """Tasks for each of this machine's cores when it began: what others compute makes all figures worse."""
    figures: tuple[Measured, ...]
    assumptions: dict[str, Any]
    """What to keep in the job: what was measured, and what else the job says."""
    usage: dict[str, dict[str, float]]
    """Key of `syn.json` → what the requests took."""

    def lines(self) -> Iterator[str]:
        """What was measured and on what, a line for each figure, and what endpoints were asked."""
        yield f"{self.num_samples} samples of {self.shard} on {self.device}, in {self.seconds:.0f} s"
        if self.num_skipped:
            yield f"{self.num_skipped} of them were skipped"
        if self.load > _QUIET:
            yield f"others kept this machine busy, {self.load:.1f} tasks a core: measure again when it is idle"
        width = max(len(figure.name) for figure in self.figures)
        for figure in self.figures:
            assumed = "unknown" if figure.assumed is None else f"{figure.assumed:.4g}"
            yield f"{figure.name:{width}}  {figure.measured:<8.4g} assumed {assumed}"
        for key, used in self.usage.items():
            yield f"asked of endpoints for {describe_usage(key, used)}"

    def as_yaml(self) -> str:
        """The assumptions, to be kept in the job."""
        return yaml.safe_dump({"assumptions": self.assumptions}, sort_keys=False, default_flow_style=None, width=100)
