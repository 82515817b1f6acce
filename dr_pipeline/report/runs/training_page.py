"""The page of a training run: what was trained on what, its curves, its evaluations, and what the student finds."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dr_pipeline.config.job import flatten
from dr_pipeline.report.page.charts import Line, lines
from dr_pipeline.report.page.frame import Page, Section
from dr_pipeline.report.page.parts import facts, note, table, tally, warning
from dr_pipeline.report.runs.examples import examples
from dr_pipeline.report.runs.folder import TrainingRun, with_every_field
from dr_pipeline.report.units import in_clock, in_utc, share
from dr_pipeline.training.metrics import figures_of
from dr_pipeline.words import plural

if TYPE_CHECKING:
    from markupsafe import Markup

CURVES = {
    "loss": ("Loss", "loss"),
    "learning_rate": ("Learning rate", "learning rate"),
    "samples_per_second": ("Speed", "samples/s"),
    "wait_fraction": ("Data wait", "share of the time"),
    "gradient_norm": ("Gradient norm, before clipping", "norm"),
    "logit_scale": ("Logit scale", "1 / τ"),
}
"""Field of a logged step → its chart's title and the label of its axis."""
_PARTS = {"text": "ground-truth captions", "synthetic": "synthetic captions"}
"""What parts of the loss are called that have the names of kinds of captions."""
_OBJECTIVES = {
    "clip": "a dual encoder of images and texts",
    "coca": "a captioner (CoCa)",
    "classify": "a classifier of images",
}
_MOST_HEADLINES = 4
"""Tasks of which a figure stands at the page's top."""


def training_page(run: TrainingRun) -> Page:
    """The page of a run; examples are computed now, by its published model. Raises ConfigError."""
    run = with_every_field(run)
    fields = [(name, _joined(value) if isinstance(value, list) else str(value)) for name, value in flatten(run.job)]
    sections = [
        Section("Overview", _overview(run)),
        Section("Training", _training(run)),
        Section("Curves", _curves(run)),
        Section("Evaluations", _evaluations(run)),
        Section("Skipped samples", _skipped(run)),
        Section("Examples", examples(run)),
        Section("Configuration", [table("job.json", ("field", "value"), fields)]),
    ]
    return Page(title=run.name, lead=str(run.folder), sections=sections, assets=("gallery.css",))


def _overview(run: TrainingRun) -> "list[Markup]":
    record, schedule = run.record, run.job["schedule"]
    student, data = record.get("student", {}), record.get("data", {})
    samples = run.step * schedule["batch_size"]
    name = str(student.get("name") or run.job["student"]["architecture"])
    said = {"student": name.rpartition("/")[2].removesuffix(".json")}
    if "parameters" in student:
        said["parameters"] = f"{student['parameters'] / 1e6:,.1f} M"
    said["steps"] = f"{run.step:,} of {run.last_step:,}"
    said["samples seen"] = f"{samples:,}"
    if data.get("num_samples"):
        said["epochs"] = f"{samples / data['num_samples']:,.1f}"
    if run.steps:
        said["loss at the end" if run.step == run.last_step else "loss now"] = f"{run.steps[-1]['loss']:.3f}"
        said["time in steps"] = in_clock(run.train_seconds)
    measured = figures_of(run.evaluations[-1]) if run.evaluations else {}
    for task, names in [*figures_by_task([*measured]).items()][:_MOST_HEADLINES]:
        said[f"{task} {names[0]}"] = share(measured[f"{task} {names[0]}"], 1)
    pieces = [facts(said)]
    if not run.steps:
        pieces.append(warning("No step is logged yet."))
    elif run.step < run.last_step:
        not_ended = f"The run has not ended: step {run.step:,} of {run.last_step:,} is the last that is logged."
        pieces.append(warning(not_ended))
    if not record:
        pieces.append(note("An earlier version made this run: it did not record sizes, teachers, tasks and devices."))
    return pieces


def _training(run: TrainingRun) -> "list[Markup]":
    job, schedule, data = run.job, run.job["schedule"], run.record.get("data", {})
    side = run.record.get("student", {}).get("image_size")
    shards = plural(data["num_shards"], "shard") if data else ""
    samples = f"{data['num_samples']:,} in {shards}" if data.get("num_samples") else shards
    warmup, rate = plural(schedule["warmup_steps"], "step"), f"{schedule['learning_rate']:g}"
    optimizer = f"{schedule.get('optimizer', 'adamw')}, learning rate {rate} after {warmup} of warm-up"
    average = f", moving average {schedule['ema_decay']:g}" if schedule.get("ema_decay") else ""
    said = [
        ("objective", _OBJECTIVES.get(job["objective"], job["objective"])),
        ("architecture", job["student"]["architecture"]),
        ("initial weights", job["student"]["weights"]),
        ("image size", "" if side is None else f"{side} px"),
        ("data", _joined(job["data"]["shards"])),
        ("samples", samples),
        ("batch size", f"{schedule['batch_size']:,}"),
        ("optimizer", f"{optimizer}, weight decay {schedule['weight_decay']:g}{average}"),
        *_loss_weights(job),
    ]
    pieces = [table("What was trained on what", ("what", "value"), [row for row in said if row[1]])]
    if teachers := run.record.get("teachers"):
        names = {name: name.replace("_", " ") for teacher in teachers for name in teacher}
        rows = [[teacher.get(name) for name in names] for teacher in teachers]
        pieces.append(table("Teachers", [*names.values()], rows))
    if starts := run.record.get("starts"):
        fields = ("step", "device", "ranks", "precision")
        rows = [[in_utc(start["time"]), *(str(start[field]) for field in fields)] for start in starts]
        pieces.append(table("Starts", ("time", "after step", *fields[1:]), rows))
    return pieces


def _loss_weights(job: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What counts in the loss, and how much."""
    distillation, captions = job["distillation"], job["captions"]
    if job["objective"] == "coca":
        weights = job["coca"]
        yield "losses", f"captions × {weights['caption_weight']:g}, contrastive × {weights['contrastive_weight']:g}"
        return
    yield "λ, the weight of distillation", f"{distillation['weight']:g}"
    if job["objective"] == "clip":
        ground_truth, synthetic = captions["ground_truth_weight"], captions["synthetic_weight"]
        yield "captions", f"ground truth × {ground_truth:g}, synthetic × {synthetic:g}"
    if distillation["online_teachers"]:
        yield "teachers in memory", ", ".join(card["name"] for card in distillation["online_teachers"])


def _curves(run: TrainingRun) -> "list[Markup]":
    if not run.steps:
        return [note("There is nothing to draw yet.")]
    pieces = []
    for field, (title, label) in CURVES.items():
        series = _losses(run) if field == "loss" else [Line("train", *run.logged(field))]
        if len({*series[0].ys}) > 1 or field == "loss":
            pieces.append(lines(title, series, "step", label, marks=run.restarts))
    if run.restarts:
        pieces.append(note("A dashed line stands where the run was stopped and went on."))
    return pieces


def _losses(run: TrainingRun) -> list[Line]:
    """The loss and, where there are several, its parts."""
    parts = [*dict.fromkeys(part for one in run.steps for part in one.get("losses", {}))]
    steps, sums = run.logged("loss")
    if len(parts) < 2:
        return [Line("train", steps, sums)]
    by_part = {part: [one.get("losses", {}).get(part, math.nan) for one in run.steps] for part in parts}
    return [Line("sum", steps, sums), *(Line(_PARTS.get(part, part), steps, ys) for part, ys in by_part.items())]


def _evaluations(run: TrainingRun) -> "list[Markup]":
    if not run.evaluations:
        return [note("The run has not been evaluated: its job names no task, or it has not come so far.")]
    last, rows, pieces = run.evaluations[-1], [], []
    for task, names in figures_by_task(run.figures()).items():
        series = [Line(name, *run.measured(f"{task} {name}")) for name in names]
        pieces.append(lines(task, series, "step", "per cent", marks=run.restarts))
        for name in names:
            steps, values = run.measured(f"{task} {name}")
            best = max(range(len(values)), key=values.__getitem__)
            now = last.get(f"{task} {name}")
            rows.append((task, name, None if now is None else round(100 * now, 1), round(values[best], 1), steps[best]))
    header = ("task", "figure", f"after step {last['step']:,}, %", "best, %", "after step")
    return [*pieces, table("Figures", header, rows)]


def figures_by_task(figures: list[str]) -> dict[str, list[str]]:
    """Task → the names of its figures, which have no blanks."""
    tasks: dict[str, list[str]] = {}
    for name in figures:
        task, _, figure = name.rpartition(" ")
        tasks.setdefault(task, []).append(figure)
    return tasks


def _skipped(run: TrainingRun) -> "list[Markup]":
    if not run.skipped:
        return [note("Every sample that was read could be used.")]
    total = run.skipped.total()
    per_mille = 1000 * total / max(1, total + run.step * run.job["schedule"]["batch_size"])
    remark = f"{plural(total, 'sample')} that the leading rank read could not be used, {per_mille:.2g} of 1,000 seen."
    reasons = tally("Why samples were passed over", run.skipped.most_common(), remark)
    return [reasons, note("`dr-pipeline verify` tells which they are.")]


def _joined(values: Any) -> str:
    return values if isinstance(values, str) else ", ".join(map(str, values))
