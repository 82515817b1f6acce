"""From a card to a checked model: import the class, construct it, compare it with what the card declares."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch

from dr_pipeline.config.cards import CaptionerCard, Card, RewriterCard, ScorerCard, TeacherCard
from dr_pipeline.config.extras import how_to_install
from dr_pipeline.config.plugins import load_class
from dr_pipeline.config.references import has_references, resolve
from dr_pipeline.errors import ConfigError, ModelError, PipelineError
from dr_pipeline.models.cards import WEIGHTS_DTYPE, check_options
from dr_pipeline.models.ensemble import check_output
from dr_pipeline.models.protocol import (
    Captioner,
    ImageScorer,
    ImageTeacher,
    ImageTextScorer,
    PromptedCaptioner,
    Rewriter,
    Scorer,
    Teacher,
    TeacherSpec,
    TextScorer,
    TextTeacher,
    inputs_of,
)
from dr_pipeline.models.scores import scores_of
from dr_pipeline.networks.digests import check_digests
from dr_pipeline.networks.images import ImageSpec

Spec = TypeVar("Spec", TeacherSpec, ImageSpec)
Returned = TypeVar("Returned")

_SEE = "; see dr_pipeline/models/protocol.py"


def load_teacher(card: TeacherCard, device: torch.device, plugin_dirs: Sequence[str] = ()) -> Teacher:
    """Construct a card's teacher, compare it with the card, and try it on one image, one text or both.

    Raises ConfigError for what is wrong in the card, ModelError for what is wrong in the model.
    """
    teacher: Teacher = construct(card, device, plugin_dirs)
    spec = _check_spec(card, teacher, TeacherSpec)
    inputs = inputs_of(teacher)
    if not inputs:
        raise ModelError(f"card {card.name}: {card.use} has neither encode_images nor encode_texts{_SEE}")
    for field, actual in (("dim", spec.dim), ("output", spec.output), ("encodes", inputs)):
        _compare(card, field, actual)
    if isinstance(teacher, ImageTeacher):
        # Noise, because a model without biases may rightly answer a blank image with a zero vector.
        size = _call(card, "spec", lambda: spec.images).image_size
        noise = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
        output = _call(card, "encode_images", lambda: teacher.encode_images(noise))
        check_output(output, spec, f"teacher {card.name}: encode_images", rows=1)
    if isinstance(teacher, TextTeacher):
        output = _call(card, "encode_texts", lambda: teacher.encode_texts(["a photo of a dog"]))
        check_output(output, spec, f"teacher {card.name}: encode_texts", rows=1)
    return teacher


def described(card: TeacherCard, teacher: Teacher) -> TeacherCard:
    """The card with what its loaded teacher says of itself; `encodes` and `output` only where it is no CLIP."""
    update, inputs = asdict(teacher.spec), inputs_of(teacher)
    update["encodes"] = inputs if len(inputs) == 1 else None
    update["output"] = teacher.spec.output if teacher.spec.output != "embedding" else None
    update["float8_error"] = None  # what the card says was measured elsewhere
    return card.model_copy(update=update)


def load_captioner(
    card: CaptionerCard,
    device: torch.device,
    plugin_dirs: Sequence[str] = (),
    weights_dtype: torch.dtype | None = None,
) -> Any:
    """Construct a card's Captioner or Rewriter and compare it with the card. Raises ConfigError, ModelError."""
    captioner = construct(card, device, plugin_dirs, weights_dtype)
    check_captioner_of(card, captioner)
    return captioner


def check_captioner_of(card: CaptionerCard, captioner: Captioner | Rewriter) -> None:
    """Compare a captioner or rewriter with a card of it. Raises ConfigError, ModelError."""
    if isinstance(card, RewriterCard):
        if not isinstance(captioner, Rewriter):
            raise ModelError(f"card {card.name}: {card.use} has no method rewrite{_SEE}")
        return
    if not callable(getattr(captioner, "caption", None)):
        raise ModelError(f"card {card.name}: {card.use} has no method caption{_SEE}")
    _check_spec(card, captioner, ImageSpec)
    if card.prompt is not None and not isinstance(captioner, PromptedCaptioner):
        raise ConfigError(
            f"card {card.name}: prompt: {card.use} takes no prompt, for it has no method caption_prompted: remove the "
            "prompt, or choose a captioner that takes one"
        )


def load_scorer(card: ScorerCard, device: torch.device, plugin_dirs: Sequence[str] = ()) -> Scorer:
    """Construct a card's scorer, compare it with the card, and try it on one image and text.

    Raises ConfigError for what is wrong in the card, ModelError for what is wrong in the model.
    """
    scorer: Scorer = construct(card, device, plugin_dirs)
    if not isinstance(scorer, ImageTextScorer | ImageScorer | TextScorer):
        raise ModelError(
            f"card {card.name}: {card.use} has none of score, score_images and score_texts, or no spec{_SEE}"
        )
    square_1HWC = None
    if isinstance(scorer, ImageTextScorer | ImageScorer):
        size = _check_spec(card, scorer, ImageSpec).image_size
        generator = torch.Generator().manual_seed(0)
        square_1HWC = torch.randint(256, (1, size, size, 3), generator=generator, dtype=torch.uint8).to(device)
    _call(card, "scoring", lambda: scores_of(scorer, square_1HWC, ["a photo of a dog"], f"scorer {card.name}"))
    return scorer


def construct(
    card: Card, device: torch.device, plugin_dirs: Sequence[str], weights_dtype: torch.dtype | None = None
) -> Any:
    """A card's class, constructed, and its files compared with the card's digests. Raises ConfigError, ModelError.

    `weights_dtype`: what its weights will be rounded to, for a class that asks, as `protocol.OwnPrecision` says.
    """
    try:
        cls = load_class(card.use, plugin_dirs)
    except ConfigError as error:
        raise ConfigError(f"card {card.name}: use: {error}") from error
    arguments = resolve(card.arguments, f"card {card.name}: options")
    if weights_dtype and WEIGHTS_DTYPE in inspect.signature(cls).parameters:
        arguments[WEIGHTS_DTYPE] = weights_dtype
    try:
        check_options(card, cls)
        model = cls(device=device, **arguments)
    except PipelineError as error:
        raise type(error)(f"card {card.name}: {error}") from error
    except ModuleNotFoundError as error:
        raise ModelError(f"card {card.name}: {card.use} needs {how_to_install(error.name or str(error))}") from error
    except Exception as error:
        message = f"card {card.name}: {card.use} failed in its constructor: {type(error).__name__}: {error}"
        if isinstance(error, FileNotFoundError) and error.filename is not None:
            named = [name for name, value in card.options.items() if value == str(error.filename)]
            message += f": options.{named[0]} is there neither in {Path.cwd()} nor beside the card" if named else ""
        cause = None if has_references(card.arguments) else error  # its words may quote a secret
        raise ModelError(message) from cause
    check_digests(card, plugin_dirs)
    return model


def _check_spec(card: Card, model: Any, kind: type[Spec]) -> Spec:
    """The model's spec, which is as the card declares it. Raises ModelError."""
    spec = getattr(model, "spec", None)
    if not isinstance(spec, kind):
        raise ModelError(
            f"card {card.name}: {card.use} must set self.spec to a {kind.__name__}, found {type(spec).__name__}"
        )
    for field in ("image_size", "mean", "std"):
        _compare(card, field, getattr(spec, field))
    return spec


def _compare(card: Card, field: str, actual: Any) -> None:
    declared = getattr(card, field)
    if declared is not None and not _same(declared, actual):
        raise ModelError(
            f"card {card.name}: {field} is {declared} in the card but {actual} in the model: "
            f"correct the card, or choose other options for {card.use}"
        )


def _same(declared: Any, actual: Any) -> bool:
    if isinstance(declared, tuple) and isinstance(actual, tuple):
        return len(declared) == len(actual) and all(map(_same, declared, actual))
    if isinstance(declared, int | float) and isinstance(actual, int | float):
        return math.isclose(declared, actual, abs_tol=1e-6)
    return bool(declared == actual)


def _call(card: Card, what: str, call: Callable[[], Returned]) -> Returned:
    try:
        with torch.inference_mode():
            return call()
    except ModelError as error:
        raise ModelError(f"card {card.name}: {error}") from error
    except PipelineError:
        raise
    except Exception as error:
        raise ModelError(
            f"card {card.name}: {what} failed on its first input: {type(error).__name__}: {error}"
        ) from error
