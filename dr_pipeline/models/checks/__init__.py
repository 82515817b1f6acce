"""Checks of a model for its author, whatever kind it is: a card goes in, and facts and problems come out."""

from collections.abc import Callable
from typing import Any

from dr_pipeline.config.cards import CaptionerCard, Card, RewriterCard, ScorerCard, TeacherCard
from dr_pipeline.config.jobfile import load_card
from dr_pipeline.config.plugins import load_class
from dr_pipeline.config.recipes import located, plugin_folders
from dr_pipeline.models.cards import CardOfEitherKind
from dr_pipeline.models.checks.captioners import check_captioner
from dr_pipeline.models.checks.findings import Checked
from dr_pipeline.models.checks.requests import check_requests
from dr_pipeline.models.checks.scorers import check_scorer
from dr_pipeline.models.checks.teachers import check_teacher

_KINDS: tuple[tuple[str, type[Card], Callable[..., Checked]], ...] = (
    ("caption", CaptionerCard, check_captioner),
    ("write", CaptionerCard, check_requests),
    ("rewrite", RewriterCard, check_captioner),
    ("score", ScorerCard, check_scorer),
    ("score_images", ScorerCard, check_scorer),
    ("score_texts", ScorerCard, check_scorer),
)
"""A method that tells the kind of a class, how its card is read, and how it is checked. Any other is a teacher."""


def check_card(path: str, batch: int | None = None) -> Checked:
    """Check the model of a card's file. Raises ConfigError where the card cannot be read.

    `batch`: how many inputs at once its speed is measured with; default as `checks.speed.batches_for`.
    """
    plugin_dirs = (".", *map(str, plugin_folders(located(path))))
    model: Any = load_class(load_card(path, CardOfEitherKind).use, plugin_dirs)
    kind: type[Card]
    for method, kind, check in _KINDS:
        if hasattr(model, method):
            return check(load_card(path, kind), plugin_dirs, batch)
    return check_teacher(load_card(path, TeacherCard), plugin_dirs, batch)
