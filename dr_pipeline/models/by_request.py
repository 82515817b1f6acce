"""The captioners of a job that take single requests: which they are, and how they are loaded."""

import inspect
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from dr_pipeline.config.cards import CaptionerCard
from dr_pipeline.config.plugins import load_class
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.load import construct
from dr_pipeline.models.protocol import RequestCaptioner

_AT_ONCE = "max_in_flight"


class ReadyRequestCaptioner(NamedTuple):
    """A captioner, and the card that says what it is asked."""

    card: CaptionerCard
    captioner: RequestCaptioner


def writes_by_request(card: CaptionerCard, plugin_dirs: Sequence[str] = ()) -> bool:
    """Whether a card's class is a RequestCaptioner. Raises ConfigError where there is no such class."""
    try:
        found = load_class(card.use, plugin_dirs)
        return callable(getattr(found, "write", None)) and not hasattr(found, "caption")
    except ConfigError as error:
        raise ConfigError(f"card {card.name}: use: {error}") from error


def requests_at_once(card: CaptionerCard, plugin_dirs: Sequence[str] = ()) -> int:
    """How many requests of such a card a worker has elsewhere at once, by its options or its class; 1 if none says.

    Raises ConfigError where there is no such class.
    """
    found = load_class(card.use, plugin_dirs)
    parameter = inspect.signature(found).parameters.get(_AT_ONCE)
    default = getattr(found, _AT_ONCE, parameter.default if parameter else None)
    given = card.arguments.get(_AT_ONCE, default)
    return given if isinstance(given, int) and given > 0 else 1


def load_request_captioners(
    cards: Iterable[CaptionerCard], device: torch.device, plugin_dirs: Sequence[str] = ()
) -> list[ReadyRequestCaptioner]:
    """Construct the captioners of the cards, all of this kind; equal ones share one. Raises as `construct`."""
    loaded: list[ReadyRequestCaptioner] = []
    for card in cards:
        shared = next((one.captioner for one in loaded if one.card.has_model_of(card)), None)
        captioner = shared or construct(card, device, plugin_dirs)
        if not isinstance(captioner, RequestCaptioner):
            raise ModelError(
                f"card {card.name}: {card.use} has a method write, but lacks max_in_flight or close; "
                "see RequestCaptioner in dr_pipeline/models/protocol.py"
            )
        loaded.append(ReadyRequestCaptioner(card, captioner))
    return loaded
