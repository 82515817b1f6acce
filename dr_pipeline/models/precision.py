"""A job's models in its precision: their weights rounded once where a model can do that, else autocast around it.

A model is tried on a few images and texts, which are the same everywhere, before it is used so.

Shapes: N inputs, D = `spec.dim` columns, C = 3 channels, S = `image_size` pixels.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch

from dr_pipeline.config.cards import CaptionerCard, Float8Error, ScorerCard, TeacherCard
from dr_pipeline.errors import ModelError
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import check_captioner_of, described, load_captioner, load_scorer, load_teacher
from dr_pipeline.models.probes import TEXTS, probe_images
from dr_pipeline.models.protocol import (
    Float8Teacher,
    ImageTeacher,
    OwnPrecision,
    Scorer,
    Teacher,
    TeacherSpec,
    TextTeacher,
)
from dr_pipeline.networks.device import Precision, autocast, no_autocast, used_precision
from dr_pipeline.networks.float8 import check_float8

Model = TypeVar("Model")

log = logging.getLogger(__name__)

LARGEST_FLOAT8_ERROR = Float8Error(mean=0.01, worst=0.05)
"""Measured: 0.001 to 0.005 on average for text towers, and less for image towers."""
_ROUNDING, _TIMES_AUTOCAST = 1e-3, 2.0
"""How far rounded weights may take an embedding from float32's: 1 - cosine, or a multiple of what autocast does."""

Outputs = dict[str, torch.Tensor]
"""What each method of a teacher gives for its inputs: floats [N, D]."""


class ReadyTeacher(NamedTuple):
    """A teacher in the job's precision, and its card with what the teacher says of itself."""

    card: TeacherCard
    teacher: Teacher
    needs_autocast: bool


def load_ensemble(
    cards: Iterable[TeacherCard], device: torch.device, precision: Precision, plugin_dirs: Sequence[str] = ()
) -> tuple[Ensemble, tuple[TeacherCard, ...]]:
    """Load the cards' teachers in a precision → them together, and their cards, completed.

    Raises ConfigError where the device lacks the precision, and as `load_ready`.
    """
    if precision == "float8":
        check_float8(device)
    ready = [load_ready(card, device, precision, plugin_dirs) for card in cards]
    teachers = [(one.card.name, one.teacher) for one in ready]
    without_autocast = {one.card.name for one in ready if not one.needs_autocast}
    return Ensemble(teachers, device, precision, without_autocast), tuple(one.card for one in ready)


def load_ready(
    card: TeacherCard, device: torch.device, precision: Precision, plugin_dirs: Sequence[str] = ()
) -> ReadyTeacher:
    """Load a card's teacher in a precision, as `protocol.OwnPrecision` says.

    Raises as `load_teacher`, and ModelError where the teacher is not good enough in float8.
    """
    teacher = load_teacher(card, device, plugin_dirs)
    completed, used = described(card, teacher), used_precision(device, precision)
    if used == "float32" or not isinstance(teacher, OwnPrecision):
        return ReadyTeacher(completed, teacher, needs_autocast=True)
    try:
        rounded = round_weights(teacher, device)
    except Exception as error:  # a class that cannot be rounded can still run as others do
        _say_that_it_runs_under_autocast(f"teacher {card.name}", error)
        rounded = None
    if rounded is None:  # here, where the exception no longer holds the first one's tensors
        del teacher
        return ReadyTeacher(completed, load_teacher(card, device, plugin_dirs), needs_autocast=True)
    if used == "float8" and isinstance(teacher, Float8Teacher):
        error = _to_float8(card.name, teacher, device, rounded)
        completed = completed.model_copy(update={"float8_error": error})
    return ReadyTeacher(completed, teacher, needs_autocast=False)


class ReadyCaptioner(NamedTuple):
    """A captioner or rewriter in the job's precision."""

    card: CaptionerCard
    captioner: Any
    """A Captioner, or a Rewriter where the card is one's."""
    needs_autocast: bool


def load_captioners(
    cards: Iterable[CaptionerCard], device: torch.device, precision: Precision, plugin_dirs: Sequence[str] = ()
) -> list[ReadyCaptioner]:
    """Load the cards' captioners in a precision; cards of one model share it. Raises as `load_captioner`."""
    loaded: list[ReadyCaptioner] = []
    for card in cards:
        shared = next((one for one in loaded if one.card.has_model_of(card)), None)
        if shared:
            check_captioner_of(card, shared.captioner)
            loaded.append(shared._replace(card=card))
        else:
            loaded.append(load_ready_captioner(card, device, precision, plugin_dirs))
    return loaded


def load_ready_captioner(
    card: CaptionerCard, device: torch.device, precision: Precision, plugin_dirs: Sequence[str] = ()
) -> ReadyCaptioner:
    """Load a card's captioner in a precision, of which float8 is bfloat16 here. Raises as `load_captioner`."""
    load = partial(load_captioner, card, device, plugin_dirs)
    return ReadyCaptioner(card, *_rounded_or_not(load, f"captioner {card.name}", device, precision))


class ReadyScorer(NamedTuple):
    """A scorer in the job's precision."""

    card: ScorerCard
    scorer: Scorer
    needs_autocast: bool


def load_ready_scorer(
    card: ScorerCard, device: torch.device, precision: Precision, plugin_dirs: Sequence[str] = ()
) -> ReadyScorer:
    """Load a card's scorer in a precision, of which float8 is bfloat16 here. Raises as `load_scorer`."""
    who = f"scorer {card.name}"
    return ReadyScorer(card, *_rounded_or_not(lambda _: load_scorer(card, device, plugin_dirs), who, device, precision))


def _rounded_or_not(
    load: Callable[[torch.dtype | None], Model], who: str, device: torch.device, precision: Precision
) -> tuple[Model, bool]:
    """A model with its weights rounded if it can do that, and whether it needs autocast."""
    if used_precision(device, precision) == "float32":
        return load(None), True
    model = load(torch.bfloat16)
    if not isinstance(model, OwnPrecision):
        return model, True
    try:
        with torch.no_grad():
            model.to_precision(torch.bfloat16)
        return model, False
    except Exception as error:
        _say_that_it_runs_under_autocast(who, error)
    del model  # before there is a second one in memory
    return load(None), True


def _say_that_it_runs_under_autocast(who: str, error: Exception) -> None:
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    log.warning("%s runs under autocast, since its weights cannot be rounded to bfloat16: %s", who, said)


def round_weights(teacher: Teacher, device: torch.device) -> Outputs:
    """Have a teacher round its weights to bfloat16 → what it makes of the images and texts then.

    Raises ModelError where that is farther from float32's than rounding explains, and what the teacher raises.
    """
    assert isinstance(teacher, OwnPrecision)
    exact = _outputs(teacher, device, no_autocast(device))
    cast = _outputs(teacher, device, autocast(device, "bfloat16"))
    teacher.to_precision(torch.bfloat16)
    rounded = _outputs(teacher, device, no_autocast(device))
    for method, output_ND in rounded.items():
        farthest = _errors(output_ND, exact[method], teacher.spec).max()
        allowed = max(_ROUNDING, _TIMES_AUTOCAST * float(_errors(cast[method], exact[method], teacher.spec).max()))
        if not farthest <= allowed:  # NaN is farther than anything
            raise ModelError(f"{method} is then {float(farthest):.2g} from float32, of {allowed:.2g} that are allowed")
    return rounded


def _to_float8(name: str, teacher: Teacher, device: torch.device, rounded: Outputs) -> Float8Error:
    """Have a teacher compute in float8 → its error to what it made before, in bfloat16.

    Raises ModelError where it fails, or where the error is larger than allowed.
    """
    assert isinstance(teacher, Float8Teacher)
    try:
        teacher.to_float8()
        outputs = _outputs(teacher, device, no_autocast(device))
    except Exception as failure:
        said = f"{type(failure).__name__}: {failure}"
        raise ModelError(f"teacher {name} fails in float8: {said}: set workers.precision=bfloat16") from failure
    errors = torch.cat([_errors(outputs[method], rounded[method], teacher.spec) for method in outputs])
    error = Float8Error(mean=float(f"{errors.mean():.2g}"), worst=float(f"{errors.max():.2g}"))
    allowed = LARGEST_FLOAT8_ERROR
    if not (error.mean <= allowed.mean and error.worst <= allowed.worst):
        raise ModelError(
            f"teacher {name}: in float8 its embeddings are {error.mean:.2g} from those in bfloat16 on average, "
            f"{error.worst:.2g} at worst (1 - cosine); allowed are {allowed.mean:.2g} and {allowed.worst:.2g}: "
            "set workers.precision=bfloat16"
        )
    return error


def _outputs(teacher: Teacher, device: torch.device, context: AbstractContextManager[object]) -> Outputs:
    """What the teacher makes of the images and texts that are the same everywhere."""
    outputs = {}
    with torch.inference_mode(), context:
        if isinstance(teacher, ImageTeacher):
            outputs["encode_images"] = teacher.encode_images(probe_images(teacher.spec.images).to(device))
        if isinstance(teacher, TextTeacher):
            outputs["encode_texts"] = teacher.encode_texts(list(TEXTS))
    return outputs


def _errors(output_ND: torch.Tensor, reference_ND: torch.Tensor, spec: TeacherSpec) -> torch.Tensor:
    """1 - cosine of each row to the reference's [N]; of scores half the square of the relative distance, as it is."""
    output_ND, reference_ND = output_ND.double().cpu(), reference_ND.double().cpu()
    lengths_N1 = reference_ND.norm(dim=1, keepdim=True)
    own_lengths_N1 = output_ND.norm(dim=1, keepdim=True) if spec.output == "embedding" else lengths_N1
    tiny = torch.finfo(torch.float32).tiny
    apart_ND = output_ND / own_lengths_N1.clamp(min=tiny) - reference_ND / lengths_N1.clamp(min=tiny)
    return apart_ND.square().sum(dim=1) / 2
