"""What a run would do: shards, samples, output size, models, and what would be refused. Starts nothing."""

from dataclasses import dataclass
from itertools import islice

from dr_pipeline.config import CaptionerCard, Job, TeacherCard
from dr_pipeline.errors import ShardError
from dr_pipeline.shards.ledger import Ledger
from dr_pipeline.shards.plan import Plan
from dr_pipeline.shards.sample import group
from dr_pipeline.shards.storage import Storage
from dr_pipeline.shards.tar import member_size, read_members

_PROBED_SAMPLES = 64
_BYTES_PER_VALUE = {"bfloat16": 2.0 * 0.81, "float32": 4.0}  # gzip takes 19 % off bfloat16 embeddings
_BYTES_PER_VIEW_PARAMETERS = 75
_BYTES_PER_CAPTION = 60
_BYTES_PER_MEMBER = 512 + 256  # a tar header, and half a block of padding


@dataclass(frozen=True)
class Preview:
    """A plan in figures. Sample counts and sizes are estimates from the first samples of one shard."""

    name: str
    output: str
    num_todo: int
    num_done: int
    num_missing: int
    first_missing: str | None
    input_bytes: int
    num_samples: int | None
    output_bytes: int | None
    models: tuple[str, ...]
    refused: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.name} → {self.output}",
            f"shards   {self.num_todo} to do, {self.num_done} done, {_bytes(self.input_bytes)} to read",
        ]
        if self.num_missing:
            lines.append(f"missing  {self.num_missing} of them are not there; the first is {self.first_missing}")
        samples = "unknown" if self.num_samples is None else f"about {self.num_samples:,}"
        size = "unknown" if self.output_bytes is None else f"about {_bytes(self.output_bytes)}"
        lines += [f"samples  {samples} to do", f"output   {size} to write"]
        lines += [f"model    {model}" for model in self.models]
        lines += [f"refused  {reason}" for reason in self.refused] or ["refused  nothing"]
        return "\n".join(lines)


def preview(plan: Plan, parameters: dict[str, int | None], refused: list[str]) -> Preview:
    """Look at the plan, the output's config.json and the head of the first shard.

    `parameters`: card name → model parameters where known; `refused`: what the caller has already found wrong.
    """
    job = plan.job
    input_bytes = sum(task.size_bytes or 0 for task in plan.todo)
    bytes_per_sample = _probe(plan)
    num_samples = round(input_bytes / bytes_per_sample) if bytes_per_sample else None
    refusal = Ledger(job).refusal()
    return Preview(
        name=job.name,
        output=job.output.path,
        num_todo=len(plan.todo),
        num_done=len(plan.done),
        num_missing=len(plan.missing),
        first_missing=plan.missing[0].uri if plan.missing else None,
        input_bytes=input_bytes,
        num_samples=num_samples,
        output_bytes=None if num_samples is None else round(input_bytes + num_samples * _added_bytes(job)),
        models=(
            *(_captioner(card, parameters.get(card.name)) for card in job.captioners),
            *(_teacher(card, parameters.get(card.name)) for card in job.teachers),
        ),
        refused=(*([refusal] if refusal else []), *refused),
    )


def _probe(plan: Plan) -> float | None:
    """Mean bytes of a sample, from the head of the first shard that is there; None where it cannot be read."""
    first = next((task for task in plan.todo if task.size_bytes), None)
    if first is None:
        return None
    sizes = []
    try:
        with Storage(plan.job.input.storage).open(first.uri) as stream:
            for _, fields in islice(group(read_members(stream)), _PROBED_SAMPLES):
                sizes.append(sum(member_size(len(data)) for data in fields.values()))
    except (OSError, ShardError):
        return None
    return sum(sizes) / len(sizes) if sizes else None


def _added_bytes(job: Job) -> float:
    """What the pipeline adds to one sample. Teachers without a declared dim count nothing."""
    total_dim = sum(teacher.dim or 0 for teacher in job.teachers)
    num_captions = sum(captioner.num_captions for captioner in job.captioners)
    num_views = job.augmentation.num_views
    embeddings = (num_views + 1 + num_captions) * total_dim * _BYTES_PER_VALUE[job.output.precision]
    members = 3 * _BYTES_PER_MEMBER
    return embeddings + num_views * _BYTES_PER_VIEW_PARAMETERS + num_captions * _BYTES_PER_CAPTION + members


def _teacher(card: TeacherCard, parameters: int | None) -> str:
    facts = [
        _millions(parameters),
        f"{card.dim or '?'} dims at {card.image_size or '?'} px",
        f"logit scale {card.logit_scale:g}",
        f"weights {card.options.get('weights', 'its own')}",
    ]
    return f"teacher {card.name}: {', '.join(facts)}"


def _captioner(card: CaptionerCard, parameters: int | None) -> str:
    facts = [
        _millions(parameters),
        f"{card.num_captions} captions by {card.sampling.method} into {card.caption_key}",
        f"weights {card.options.get('weights', 'its own')}",
    ]
    return f"captioner {card.name}: {', '.join(facts)}"


def _millions(parameters: int | None) -> str:
    return "size unknown" if parameters is None else f"{parameters / 1e6:,.1f} M parameters"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} PB"
