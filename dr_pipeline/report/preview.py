"""A preview of a run: shards, samples, output size, models, cost, and why it would be refused. Starts nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from dr_pipeline.config.cards import CaptionerCard, ScorerCard, TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.dataset.shard_patterns import LeftOut
from dr_pipeline.dataset.tar import member_size
from dr_pipeline.errors import ShardError
from dr_pipeline.networks.cost import Cost
from dr_pipeline.report.bill import Bill
from dr_pipeline.report.budget import Budget
from dr_pipeline.report.calibration import Calibration
from dr_pipeline.report.estimate import Estimate
from dr_pipeline.report.forecast import Models, forecast
from dr_pipeline.report.request_estimate import RequestEstimate
from dr_pipeline.report.traffic import Work
from dr_pipeline.report.units import in_bytes, in_time
from dr_pipeline.storage import Storage

_PROBED_SAMPLES = 64


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
        lines += _cost_lines(self.cost) if self.cost else []
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
    job, work = plan.job, work_of(plan)
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
        input_bytes=_input_bytes(plan),
        num_samples=work.num_samples if work else None,
        output_bytes=found.stored_bytes if found else None,
        models=tuple(_models(job, models.costs)),
        cost=found.estimate if found else None,
        requests=found.requests if found else (),
        bill=found.bill if found else None,
        refused=(*([refusal] if refusal else []), *refused),
        warnings=tuple(warnings),
        workers=workers,
        work=work,
    )


def work_of(plan: Plan) -> Work | None:
    """What is left to do, by the first samples of a shard; None where they cannot be read, or nothing is left."""
    bytes_per_sample = _probe(plan)
    if bytes_per_sample is None:
        return None
    input_bytes, num_present = _input_bytes(plan), len(plan.todo) - len(plan.missing)
    num_samples = round(input_bytes / bytes_per_sample)
    return Work(num_samples, num_present, input_bytes) if num_samples else None


def _input_bytes(plan: Plan) -> int:
    return sum(task.size_bytes or 0 for task in plan.todo)


def _probe(plan: Plan) -> float | None:
    """Mean bytes of the first samples of the first shard that exists; None where it cannot be read."""
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
    return min(sum(sizes), num_read) / len(sizes) if sizes else None


def _models(job: Job, costs: Mapping[str, Cost | None]) -> Iterator[str]:
    """A line for each model: kind, name, size, output and weights."""
    for card in job.cards:
        cost = costs.get(card.name)
        facts = ["size unknown" if cost is None else f"{cost.parameters / 1e6:,.1f} M parameters"]
        if isinstance(card, ScorerCard):
            facts.append(f"keeps {card.keeps}")
        if isinstance(card, CaptionerCard):
            facts.append(f"{card.num_captions} captions by {card.sampling.method} into {card.caption_key}")
        if isinstance(card, TeacherCard):
            dim = card.dim or (cost and cost.dim) or "?"
            facts.append(f"{dim} dims at {card.image_size or (cost and cost.image_size) or '?'} px")
            facts.append(f"logit scale {card.logit_scale:g}")
        kind = type(card).__name__.removesuffix("Card").lower()
        yield f"{kind} {card.name}: {', '.join(facts)}, weights {card.options.get('weights', 'its own')}"


def _assumed(cost: Estimate) -> Iterator[str]:
    """The assumptions as overrides; of models and keys that have some of their own, the names."""
    for name, value in cost.assumed.items():
        if not isinstance(value, dict):
            yield f"{name}={value:g}"
        elif value:
            yield f"{name} of {', '.join(value)}"


def _cost_lines(cost: Estimate) -> list[str]:
    of_one, of_all = in_time(3600 * cost.worker_hours), in_time(3600 * cost.hours)
    lines = [
        f"time     about {of_one} of one worker, {of_all} with {cost.num_workers:,}; each waits for {cost.held_by}",
        f"sample   {cost.device_ms:.3g} ms of the device ({cost.caption_ms:.3g} for captions), "
        f"{cost.cpu_ms:.3g} ms of a core: {cost.cores_to_keep_up:.2g} cores keep up with the device",
        f"network  {in_bytes(cost.read_bytes_per_s)}/s in, {in_bytes(cost.written_bytes_per_s)}/s out; "
        f"{cost.reads_per_s:,.3g} reads/s, {cost.writes_per_s:,.3g} writes/s, {cost.num_listings:,} listings",
        f"limit    {cost.first_limit}, from {cost.first_limit_workers:,} workers on",
        f"assumed  {', '.join(_assumed(cost))}",
    ]
    lines += [f"unknown  the cost of {name}: not counted" for name in cost.not_counted]
    return lines + [f"unknown  how long {name} takes to answer: not counted" for name in cost.not_timed]
