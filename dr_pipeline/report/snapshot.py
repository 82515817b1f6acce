"""How far a run is at a moment: what its displays show, and what is stored for `status`."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from dr_pipeline.dataset.reports import CountsSkipped
from dr_pipeline.report.units import in_clock
from dr_pipeline.words import plural


@dataclass(frozen=True)
class Snapshot(CountsSkipped):
    """How far a run is. Counts are of this run, those of shards of its whole plan."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    at: float
    """Seconds since 1970, UTC."""
    seconds: float
    """Since the run began."""
    num_shards: int
    num_done: int
    """Shards, those of earlier runs too."""
    num_failed: int
    num_samples: int
    """Written, those of shards in work too."""
    expected_samples: int | None
    """About how many this run will write; None before the first are written."""
    num_read: int
    """Samples that were read; more than are written, for those under way and those skipped."""
    num_captions: int
    """Drawn."""
    num_views: int
    """Embedded."""
    samples_per_second: float
    """Of the last minutes."""
    mean_samples_per_second: float
    """Since the first worker had its models."""
    views_per_second: float
    captions_per_second: float
    seconds_left: float | None
    """None before a sample is written."""
    device_busy: float | None
    """The part of the last minutes in which the workers' devices computed; None where nobody can tell."""
    limited_by: str | None
    """What is short; see `recorder.limit_of`."""
    limited_share: float
    """The part of the last minutes in which that was in use."""
    num_working: int
    """Workers that have their models."""
    num_loading: int
    num_pending: int
    """Workers that have no place yet, or have not answered."""
    loading: str | None
    """The model that is being loaded, where no worker has its models yet."""
    loading_seconds: float
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason → samples, those that scorers have filtered too."""
    usage: dict[str, float] = field(default_factory=dict)
    """What requests took, as in the shards' reports."""
    failures: tuple[tuple[str, str], ...] = ()
    """Name and error of the last shards that failed."""

    @classmethod
    def from_tree(cls, tree: object) -> "Snapshot | None":
        """The snapshot of such a tree, which anyone may have written; None where it is none."""
        try:
            return TypeAdapter(cls).validate_python(tree)
        except ValueError:
            return None

    def to_tree(self) -> dict[str, Any]:
        """The snapshot as JSON has it, with figures of a few digits."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        parts = [f"{self.num_done:,} of {plural(self.num_shards, 'shard')}"]
        if self.num_failed:
            parts[0] += f", {self.num_failed:,} failed"
        if self.num_samples:
            expected = self.expected_samples or self.num_samples
            about = "" if expected == self.num_samples else f"{self.num_samples:,} of about "
            parts.append(f"{about}{plural(expected, 'sample')}")
        if self.seconds_left:
            parts.append(f"{in_clock(self.seconds_left)} left")
        return f"{', '.join(parts)}; {self.figures}"

    @property
    def figures(self) -> str:
        """How fast a run is, and what holds it, in words; or what it still loads."""
        workers = self._workers
        if self.loading:
            return f"{workers}: loading {self.loading} for {in_clock(self.loading_seconds)}"
        if not self.num_read:
            return workers
        if not self.num_samples:
            done = f"{plural(self.num_read, 'sample')} read, {plural(self.num_captions, 'caption')} drawn"
            return f"{done}, {plural(self.num_views, 'view')} embedded, {workers}"
        figures = [
            f"{self.samples_per_second:,.1f} samples/s ({self.mean_samples_per_second:,.1f} on average)",
            f"{self.views_per_second:,.1f} views/s",
        ]
        if self.captions_per_second:
            figures.append(f"{self.captions_per_second:,.1f} captions/s")
        if self.usage.get("cost"):
            figures.append(f"cost {self.usage['cost']:,.2f}")
        if self.device_busy is not None:
            figures.append(f"device busy {self.device_busy:.0%}")
        if self.limited_by:
            figures.append(f"limited by {self.limited_by} ({self.limited_share:.0%})")
        if self.num_filtered:
            figures.append(f"{self.num_filtered:,} filtered")
        figures.append(f"{self.num_skipped:,} skipped")
        return ", ".join([*figures, workers] if self.num_working else figures)

    @property
    def _workers(self) -> str:
        parts = [f"{self.num_working:,} at work"] if self.num_working else []
        parts += [f"{self.num_loading:,} loading"] if self.num_loading else []
        parts += [f"{self.num_pending:,} not begun"] if self.num_pending else []
        total = self.num_working + self.num_loading + self.num_pending
        words = plural(total, "worker")
        return words if total == self.num_working or total == 0 else f"{words} ({', '.join(parts)})"
