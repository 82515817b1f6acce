"""Checks of a teacher for its author: each fault in a plain sentence, before a job meets it.

Two computations of one output are never equal to the last bit, and how far apart they may be depends on the model: one
with random weights may put images a thousandth as far apart as a trained one does. So a difference is measured against
the distance between what the model makes of different images, or texts, that are like a job's.

Shapes: B images, R rows of output, one an input, D = `spec.dim` columns.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.errors import ModelError
from dr_pipeline.models.checks.findings import Checked, finding, telling_where
from dr_pipeline.models.checks.normalisation import check_normalisation
from dr_pipeline.models.checks.speed import teacher_speed
from dr_pipeline.models.distance import largest_distance, spread, unit_rows
from dr_pipeline.models.ensemble import check_output
from dr_pipeline.models.load import load_teacher
from dr_pipeline.models.precision import round_weights
from dr_pipeline.models.probes import TEXTS, probe_images
from dr_pipeline.models.protocol import (
    CompilableTeacher,
    Float8Teacher,
    ImageTeacher,
    OwnPrecision,
    ReplayableTeacher,
    Teacher,
    TeacherSpec,
    TextTeacher,
    TokenTeacher,
)
from dr_pipeline.networks.device import autocast, pick_device
from dr_pipeline.words import plural

ODD_TEXTS = (*TEXTS, "a very long text " * 100)
_EVERY = 2
"""Of the images that there are, one in so many: each is computed alone too."""
# How far apart two computations of a row may be: a share of the distance between different inputs' rows, which is more
# than half precision needs and less than any fault was seen to make. And what float32 and TF32 need where the model
# gives all inputs one row (measured on a CPU: 1e-6). Rows are scaled to length 1, or those of scores to at most 1.
_SHARE = 0.02
_ROUNDING = {"cpu": 1e-5, "cuda": 1e-3}
_SAME_ROW = 1e-6
_ABILITIES = {
    TokenTeacher: "have its texts tokenized beside the device",
    OwnPrecision: "round its weights to bfloat16",
    Float8Teacher: "compute in float8",
    CompilableTeacher: "be compiled",
    ReplayableTeacher: "be launched as CUDA graphs",
}


class _Method(NamedTuple):
    """A method of a teacher, and what to try it on: a batch of images or a list of texts."""

    name: str
    encode: Callable[[Any], Any]
    inputs: Any


def check_teacher(card: TeacherCard, plugin_dirs: Sequence[str] = (), batch: int | None = None) -> Checked:
    """Try a card's teacher on images like a job's and on odd texts, alone and together. It is constructed twice."""
    with finding() as checked:
        device = pick_device()
        before = _try(card, plugin_dirs, device, checked)  # and then it is no longer in memory
        if checked.problems:
            return checked
        again = load_teacher(card, device, plugin_dirs)
        if "reruns" not in checked.facts:
            checked.problems += _differing(before, _outputs(again, device), again.spec, device)
        if device.type == "cpu":  # where jobs compute in float32, and what comes next rounds the weights
            checked.facts |= teacher_speed(again, device, batch, needs_autocast=True)
        needs_autocast = True
        if isinstance(again, OwnPrecision):
            try:
                round_weights(again, device)
                needs_autocast = False
            except Exception as error:
                checked.problems.append(f"to_precision cannot be used, so that jobs run it under autocast: {error}")
        if device.type != "cpu":
            checked.facts |= teacher_speed(again, device, batch, needs_autocast)
    return checked


def _try(
    card: TeacherCard, plugin_dirs: Sequence[str], device: torch.device, checked: Checked
) -> dict[str, torch.Tensor]:
    """Construct a teacher, and say what is found → what its methods give."""
    with telling_where(f"constructing and trying {card.use}"):
        teacher = load_teacher(card, device, plugin_dirs)
    spec = teacher.spec
    inputs = [f"images of {spec.image_size} px"] if isinstance(teacher, ImageTeacher) else []
    inputs += ["texts"] if isinstance(teacher, TextTeacher) else []
    noun = "an embedding" if spec.output == "embedding" else spec.output
    checked.facts["teacher"] = f"{' and '.join(inputs)} → {noun} of {plural(spec.dim, 'dim')}"
    if can := [words for kind, words in _ABILITIES.items() if isinstance(teacher, kind)]:
        checked.facts["can also"] = ", ".join(can)
    is_reproducible = checked.say_reruns(teacher)
    for method in _methods(teacher, device):
        checked.problems += _check_method(method, spec, device, is_reproducible)
    if checked.problems:
        return {}
    if isinstance(teacher, ImageTeacher):
        encode_images = torch.inference_mode()(teacher.encode_images)
        checked.facts["images"], checked.problems = check_normalisation(
            teacher, teacher.spec.images, lambda images_BCHW: encode_images(images_BCHW.to(device))
        )
    return _outputs(teacher, device)


def _methods(teacher: Teacher, device: torch.device) -> list[_Method]:
    methods = []
    if isinstance(teacher, ImageTeacher):
        images_BCHW = probe_images(teacher.spec.images)[::_EVERY].to(device)
        methods.append(_Method("encode_images", teacher.encode_images, images_BCHW))
    if isinstance(teacher, TextTeacher):
        methods.append(_Method("encode_texts", teacher.encode_texts, list(ODD_TEXTS)))
    return methods


def _outputs(teacher: Teacher, device: torch.device) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return {method.name: method.encode(method.inputs) for method in _methods(teacher, device)}


def _check_method(method: _Method, spec: TeacherSpec, device: torch.device, is_reproducible: bool) -> list[str]:
    """What is wrong with a method."""
    name, encode, inputs = method
    problems: list[str] = []

    def run(inputs: Any, how: str) -> Any:
        """The output under inference mode; None, with a problem added, where it is not valid."""
        try:
            with torch.inference_mode():
                output = encode(inputs)
            check_output(output, spec, f"{name}, {how},", rows=len(inputs))
            return output
        except ModelError as error:
            problems.append(f"{error}.")
        except Exception as error:
            problems.append(f"{name}, {how}, fails: {type(error).__name__}: {error}")
        return None

    alone = []
    for index in range(len(inputs)):
        shown = f"text {inputs[index][:30]!r}" if isinstance(inputs, list) else f"image {index}"
        alone.append(run(inputs[index : index + 1], f"given {shown} alone"))
    together = run(inputs, f"given {len(inputs)} inputs")
    if problems:
        return problems
    again = run(inputs, f"given {len(inputs)} inputs again")
    with autocast(device, "bfloat16"):
        run(inputs, "under bfloat16 autocast")
    if together.device.type != device.type:
        problems.append(f"{name} returns its result on {together.device}, but it was given {device}: leave it there.")
    if again is not None and is_reproducible:
        problems += _unequal(name, together, again, torch.cat(alone), spec, device)
    if spread(_comparable(together, together, spec)) <= _SAME_ROW:
        problems.append(f"{name} returns one embedding for different inputs: it does not look at them.")
    if spec.output == "probabilities" and not bool(((together >= 0) & (together <= 1)).all()):
        problems.append(f"{name} returns probabilities below 0 or above 1: apply softmax or sigmoid, or say scores.")
    return problems


def _unequal(
    name: str, together: torch.Tensor, again: torch.Tensor, alone: torch.Tensor, spec: TeacherSpec, device: torch.device
) -> list[str]:
    """What differs among three computations of the same inputs."""
    rows_RD = _comparable(together, together, spec)
    tolerance, apart = _tolerance(rows_RD, device), largest_distance(_comparable(alone, together, spec), rows_RD)
    if largest_distance(_comparable(again, together, spec), rows_RD) > tolerance:
        return [
            f"{name} returns other embeddings on a second call: put the model in eval mode (no dropout), or say "
            "`reproducible = False` in the class."
        ]
    if apart > tolerance:
        return [
            f"{name} is not batch-invariant: an input alone and among others gets embeddings that are {apart:.2g} "
            f"apart, and different inputs' are {spread(rows_RD):.2g} apart. Put the model in eval mode, use no "
            "statistics of the batch, keep the order of the inputs, and mask the padding of texts."
        ]
    return []


def _differing(
    before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], spec: TeacherSpec, device: torch.device
) -> list[str]:
    """What two objects of one class make differently of the same inputs."""
    problems = []
    for name, first in before.items():
        first_RD, second_RD = _comparable(first, first, spec), _comparable(after[name], first, spec)
        if largest_distance(first_RD, second_RD) > _tolerance(first_RD, device):
            problems.append(
                f"Constructed twice, it embeds the same {name.removeprefix('encode_')} differently, so two workers "
                "would disagree: load weights from a file, or seed what is random."
            )
    return problems


def _comparable(output_RD: torch.Tensor, reference_RD: torch.Tensor, spec: TeacherSpec) -> torch.Tensor:
    """float32 rows on the CPU: embeddings with norm 1; others divided by the largest norm of the reference's rows."""
    if spec.output == "embedding":
        return unit_rows(output_RD)
    longest = reference_RD.detach().float().cpu().norm(dim=1).max().clamp(min=torch.finfo(torch.float32).tiny)
    return output_RD.detach().float().cpu() / longest


def _tolerance(rows_RD: torch.Tensor, device: torch.device) -> float:
    return max(_ROUNDING.get(device.type, _ROUNDING["cuda"]), _SHARE * spread(rows_RD))
