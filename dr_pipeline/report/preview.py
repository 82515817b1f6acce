"""A preview of a run: shards, samples, output size, models, cost, and why it would be refused. Starts nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import yaml

from dr_pipeline.config.cards import CaptionerCard, ScorerCard, TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import describe_usage
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.dataset.shard_patterns import LeftOut
from dr_pipeline.dataset.tar import member_size
from dr_pipeline.errors import ShardError
from dr_pipeline.report.budget import Budget
from dr_pipeline.report.estimate import Estimate, Work
from dr_pipeline.report.forecast import Bill, RequestEstimate, forecast
from dr_pipeline.report.sample_time import Models
from dr_pipeline.report.units import in_bytes
from dr_pipeline.storage import Storage
from dr_pipeline.words import plural

_PROBED_SAMPLES = 64
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
        yield f"{plural(self.num_samples, 'sample')} of {self.shard} on {self.device}, in {self.seconds:.0f} s"
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


@dataclass(frozen=True)
class Preview:
    """A plan in figures. Sample counts and sizes are estimates from the first samples of one shard."""

    name: str
    output: str
    num_todo: int
    num_done: int
    num_missing: int
    first_missing: str | None
    left_out: tuple[LeftOut, ...]
    input_bytes: int
    num_samples: int | None
    output_bytes: int | None
    models: tuple[str, ...]
    cost: Estimate | None
    requests: tuple[RequestEstimate, ...]
    bill: Bill | None
    refused: tuple[str, ...]
    warnings: tuple[str, ...]
    workers: str
    work: Work | None
    """What is left to do; None where that is not known, or nothing."""
    calibration: Calibration | None = None
    budget: Budget | None = None

    def __str__(self) -> str:
        lines = [
            f"{self.name} → {self.output}",
            f"shards   {self.num_todo} to do, {self.num_done} done, {in_bytes(self.input_bytes)} to read",
        ]
        if self.num_missing:
            lines.append(f"missing  {self.num_missing} of them are not there; the first is {self.first_missing}")
        lines += [f"left out {left_out}" for left_out in self.left_out]
        samples = "unknown" if self.num_samples is None else f"about {self.num_samples:,}"
        size = "unknown" if self.output_bytes is None else f"about {in_bytes(self.output_bytes)}"
        if self.num_todo:
            lines += [f"samples  {samples} to do", f"output   {size} to write"]
        lines += [f"workers  {self.workers}", *(f"model    {model}" for model in self.models)]
        lines += [f"measured {line}" for line in self.calibration.lines()] if self.calibration else []
        lines += self.cost.lines() if self.cost else []
        lines += [f"requests {card}" for card in self.requests]
        lines += [f"money    {line}" for line in self.bill.lines()] if self.bill else []
        lines += [f"budget   {line}" for line in self.budget.lines()] if self.budget else []
        lines += [f"warning  {warning}" for warning in self.warnings]
        lines += [f"refused  {reason}" for reason in self.refused] or ["refused  nothing"]
        lines += ["", "# keep it in the job:", self.calibration.as_yaml().rstrip()] if self.calibration else []
        return "\n".join(lines)


def preview(
    plan: Plan,
    models: Models,
    workers: str = "as the job says",
    refused: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Preview:
    """Look at the plan, the output's config.json and the first samples of one shard.

    Args:
        plan: the shards, and the job with the workers that the run would have.
        models: what is known of the job's models.
        workers: these workers in words.
        refused: other reasons that would stop the run.
        warnings: what the user should know before the run.
    """
    job, input_bytes = plan.job, sum(task.size_bytes or 0 for task in plan.todo)
    work = _work(plan, input_bytes)
    found = forecast(job, work, models) if work else None
    refusal = ConfigJson(job).refusal()
    return Preview(
        name=job.name,
        output=job.output.path,
        num_todo=len(plan.todo),
        num_done=len(plan.done),
        num_missing=len(plan.missing),
        first_missing=plan.missing[0].uri if plan.missing else None,
        left_out=plan.left_out,
        input_bytes=input_bytes,
        num_samples=work.num_samples if work else None,
        output_bytes=found.stored_bytes if found else None,
        models=tuple(_models(job, models)),
        cost=found.estimate if found else None,
        requests=found.requests if found else (),
        bill=found.bill if found else None,
        refused=(*([refusal] if refusal else []), *refused),
        warnings=tuple(warnings),
        workers=workers,
        work=work,
    )


def _work(plan: Plan, input_bytes: int) -> Work | None:
    """What is left to do, by the mean size of the first samples of the first shard that exists.

    None where that cannot be read, or nothing is left.
    """
    first = next((task for task in plan.todo if task.size_bytes), None)
    if first is None:
        return None
    sizes = []
    try:
        with Storage(plan.job.input.storage).open(first.uri) as stream:
            for sample in islice(read_samples(stream), _PROBED_SAMPLES):
                sizes.append(sum(member_size(len(data)) for data in sample.members.values()))
            num_read = stream.tell()  # fewer than their sizes where gzip has packed them
    except (OSError, ShardError):
        return None
    num_samples = round(input_bytes * len(sizes) / min(sum(sizes), num_read)) if sizes else 0
    return Work(num_samples, len(plan.todo) - len(plan.missing), input_bytes) if num_samples else None


def _models(job: Job, models: Models) -> Iterator[str]:
    """A line for each model: kind, name, size, output and weights."""
    for card in job.cards:
        cost = models.costs.get(card.name)
        facts = ["size unknown" if cost is None else f"{cost.parameters / 1e6:,.1f} M parameters"]
        if isinstance(card, ScorerCard):
            facts.append(f"keeps {card.keeps}")
        if isinstance(card, CaptionerCard):
            facts.append(f"{plural(card.num_captions, 'caption')} by {card.sampling.method} into {card.caption_key}")
        if isinstance(card, TeacherCard):
            dim = card.dim or (cost and cost.dim) or "?"
            facts.append(f"{dim} dims at {card.image_size or (cost and cost.image_size) or '?'} px")
            facts.append(f"logit scale {card.logit_scale:g}")
        kind = type(card).__name__.removesuffix("Card").lower()
        yield f"{kind} {card.name}: {', '.join(facts)}, weights {card.options.get('weights', 'its own')}"
