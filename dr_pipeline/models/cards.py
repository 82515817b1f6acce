"""Checks of a card without its model's weights: packages, options, cost and sizes."""

import inspect
import logging
from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict

from dr_pipeline.config.augmentation import ViewRecipe
from dr_pipeline.config.cards import Card, TeacherCard
from dr_pipeline.config.extras import how_to_install, require
from dr_pipeline.config.plugins import load_class
from dr_pipeline.config.references import has_references
from dr_pipeline.errors import ConfigError, HubError, ModelError, PipelineError, nearest
from dr_pipeline.networks.cost import Cost

log = logging.getLogger(__name__)

WEIGHTS_DTYPE = "weights_dtype"
"""The constructor's parameter of `protocol.OwnPrecision`."""


class CardOfEitherKind(Card):
    """A card of a teacher or a captioner, which only its class can tell: fields of one alone are ignored."""

    model_config = ConfigDict(extra="ignore")


def card_cost(card: Card, plugin_dirs: Sequence[str] = ()) -> Cost | None:
    """The cost of a card's model, from its class's static method `cost(**options)`. Raises ConfigError, ModelError.

    None where the class has no such method, where options are references, which a worker alone may resolve, and where
    the architecture is on a hub that cannot be reached here.
    """
    cls = load_class(card.use, plugin_dirs)
    check_options(card, cls)
    if not hasattr(cls, "cost") or has_references(card.arguments):
        return None
    try:
        return cls.cost(**card.arguments)
    except HubError as error:
        log.warning("card %s: its cost is not known here: %s", card.name, error)
        return None
    except PipelineError:
        raise
    except ModuleNotFoundError as error:
        raise ModelError(f"{card.use} needs {how_to_install(error.name or str(error))}") from error
    except Exception as error:
        raise ModelError(f"{card.use}: cost fails: {type(error).__name__}: {error}") from error


def check_sizes(card: Card, cost: Cost, recipe: ViewRecipe) -> None:
    """Compare a model's sizes with what its card declares and with the views. Raises ModelError naming the field."""
    for field, actual in (("image_size", cost.image_size), ("dim", cost.dim)):
        declared = getattr(card, field, None)
        if None not in (declared, actual) and declared != actual:
            raise ModelError(f"{field} is {declared} in the card but {actual} in the model: correct the card")
    if isinstance(card, TeacherCard) and (cost.image_size or 0) > recipe.size:
        raise ModelError(
            f"takes {cost.image_size} px but views are rendered at {recipe.size} px: "
            f"set augmentation.{recipe.sized_by}.size to at least {cost.image_size}"
        )


def check_options(card: Card, cls: Any) -> None:
    """Compare a card's options with the constructor's parameters, and look for the packages that its class names.

    Raises ConfigError naming the field, or the package and how to install it.
    """
    for package in getattr(cls, "packages", ()):
        require(package, card.use)
    parameters = inspect.signature(cls).parameters
    takes_anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if "device" not in parameters and not takes_anything:
        raise ConfigError(f"{card.use} must take device: def __init__(self, device, …)")
    known = [name for name in parameters if name not in ("device", WEIGHTS_DTYPE)]
    for option in card.arguments:
        field = f"{'options' if option in card.options else 'connection'}.{option}"
        if option == "device":
            raise ConfigError(f"{field}: the pipeline chooses the device; remove it")
        if option not in known and not takes_anything:
            raise ConfigError(
                f"{field}: {card.use} has no such option{nearest(option, known) or '; it has: ' + ', '.join(known)}"
            )
    for name, parameter in parameters.items():
        is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        is_required = is_named and parameter.default is parameter.empty and name != "device"
        if is_required and name not in card.arguments:
            raise ConfigError(f"options.{name}: required by {card.use}, but missing")
