"""From a card to a checked model: import the class, construct it, compare it with what the card declares."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from dr_pipeline.config.cards import CaptionerCard, Card, TeacherCard
from dr_pipeline.config.plugins import load_class
from dr_pipeline.config.references import has_references, resolve
from dr_pipeline.errors import ConfigError, ModelError, PipelineError
from dr_pipeline.models.cards import check_options
from dr_pipeline.models.ensemble import check_embeddings
from dr_pipeline.models.protocol import Captioner, Teacher, TeacherSpec
from dr_pipeline.networks.digests import check_digests
from dr_pipeline.networks.images import ImageSpec


def load_teacher(card: TeacherCard, device: torch.device, plugin_dirs: Sequence[str] = ()) -> Teacher:
    """Construct a card's teacher, compare it with the card and embed one image and one text.

    Raises ConfigError for what is wrong in the card, ModelError for what is wrong in the model.
    """
    teacher: Teacher = _construct(card, device, plugin_dirs, ("encode_images", "encode_texts"))
    _check_spec(card, teacher.spec, TeacherSpec, ("dim", "image_size", "mean", "std"))
    spec = teacher.spec
    # Noise, because a model without biases may rightly answer a blank image with a zero vector.
    noise = torch.rand(1, 3, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        image_emb = _call(card, "encode_images", lambda: teacher.encode_images(noise.to(device)))
        text_emb = _call(card, "encode_texts", lambda: teacher.encode_texts(["a photo of a dog"]))
    check_embeddings(image_emb, f"teacher {card.name}: encode_images", rows=1, dim=spec.dim)
    check_embeddings(text_emb, f"teacher {card.name}: encode_texts", rows=1, dim=spec.dim)
    return teacher


def load_captioner(card: CaptionerCard, device: torch.device, plugin_dirs: Sequence[str] = ()) -> Captioner:
    """Construct a card's captioner and compare it with the card. Raises ConfigError, ModelError."""
    captioner: Captioner = _construct(card, device, plugin_dirs, ("caption",))
    _check_spec(card, captioner.spec, ImageSpec, ("image_size", "mean", "std"))
    return captioner


def _construct(card: Card, device: torch.device, plugin_dirs: Sequence[str], methods: tuple[str, ...]) -> Any:
    try:
        cls = load_class(card.use, plugin_dirs)
    except ConfigError as error:
        raise ConfigError(f"card {card.name}: use: {error}") from error
    check_options(card, cls)
    options = resolve(card.options, f"card {card.name}: options")
    try:
        model = cls(device=device, **options)
    except PipelineError as error:
        raise type(error)(f"card {card.name}: {error}") from error
    except Exception as error:
        said = f"card {card.name}: {card.use} failed in its constructor: {_said(error)}"
        raise ModelError(said) from (None if has_references(card.options) else error)  # its words may quote a secret
    for method in methods:
        if not callable(getattr(model, method, None)):
            raise ModelError(f"card {card.name}: {card.use} has no method {method}; see dr_pipeline/models/protocol.py")
    check_digests(card, plugin_dirs)
    return model


def _check_spec(card: Card, spec: object, kind: type[ImageSpec], fields: tuple[str, ...]) -> None:
    if not isinstance(spec, kind):
        raise ModelError(
            f"card {card.name}: {card.use} must set self.spec to a {kind.__name__}, found {type(spec).__name__}"
        )
    for field in fields:
        declared, actual = getattr(card, field), getattr(spec, field)
        if declared is not None and not _same(declared, actual):
            raise ModelError(
                f"card {card.name}: {field} is {declared} in the card but {actual} in the model: "
                f"correct the card, or choose other options for {card.use}"
            )


def _same(declared: Any, actual: Any) -> bool:
    if isinstance(declared, tuple):
        return len(declared) == len(actual) and all(map(_same, declared, actual))
    return math.isclose(declared, actual, abs_tol=1e-6)


def _call(card: Card, method: str, call: Any) -> Any:
    try:
        return call()
    except PipelineError:
        raise
    except Exception as error:
        raise ModelError(f"card {card.name}: {method} failed on its first input: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
