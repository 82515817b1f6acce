"""Checks of a scorer: scores alone, together and again, against how far apart different samples' are.

Shapes: B images and their texts, H = W pixels, C = 3 channels.
"""

from collections.abc import Sequence
from functools import partial

import torch

from dr_pipeline.config.cards import ScorerCard
from dr_pipeline.errors import ModelError, PipelineError
from dr_pipeline.models.checks.findings import Checked, finding, telling_where
from dr_pipeline.models.checks.normalisation import check_normalisation
from dr_pipeline.models.checks.speed import Timed, batches_for, speed_facts
from dr_pipeline.models.distance import largest_distance, spread
from dr_pipeline.models.load import load_scorer
from dr_pipeline.models.precision import load_ready_scorer
from dr_pipeline.models.probes import NUM_IMAGES, TEXTS, probe_squares
from dr_pipeline.models.protocol import ImageScorer, ImageTextScorer, Scorer
from dr_pipeline.models.scores import scores_of
from dr_pipeline.networks.device import pick_device, precision_context

_SHARE, _ROUNDING = 0.02, 1e-4
"""How far apart two computations of a score may be: of what different samples' are, and of the largest score."""


def check_scorer(card: ScorerCard, plugin_dirs: Sequence[str] = (), batch: int | None = None) -> Checked:
    """Try a card's scorer on samples like a job's, alone and together."""
    device = pick_device()
    with finding() as checked:
        with telling_where(f"constructing and trying {card.use}"):
            scorer = load_scorer(card, device, plugin_dirs)
        inputs = "texts"
        if isinstance(scorer, ImageTextScorer | ImageScorer):
            both = " and texts" if isinstance(scorer, ImageTextScorer) else ""
            inputs = f"images of {scorer.spec.image_size} px{both}"
        checked.facts["scorer"] = f"scores {inputs}; a job keeps {card.keeps}"
        checked.say_rounding(scorer)
        is_reproducible = checked.say_reruns(scorer)
        if isinstance(scorer, ImageTextScorer | ImageScorer):
            run_on = partial(_run_on, scorer, device)
            checked.facts["images"], checked.problems = check_normalisation(scorer, scorer.spec, run_on)
            del run_on
        checked.problems += _check_scores(scorer, device, is_reproducible)
        del scorer  # before there is a second one in memory
        if not checked.problems:
            ready = load_ready_scorer(card, device, "auto", plugin_dirs)
            number = batches_for(device, batch).views

            def run() -> None:  # as a job does
                with precision_context(device, "auto", ready.needs_autocast):
                    _scores(ready.scorer, device, range(number))

            checked.facts |= speed_facts(Timed("samples", number).run(run, device), device)
    return checked


def _run_on(scorer: ImageTextScorer | ImageScorer, device: torch.device, images_BCHW: torch.Tensor) -> torch.Tensor:
    images_BCHW = images_BCHW.to(device)
    with torch.inference_mode():
        if isinstance(scorer, ImageTextScorer):
            return scorer.score(images_BCHW, list(TEXTS[: len(images_BCHW)]))
        return scorer.score_images(images_BCHW)


def _scores(scorer: Scorer, device: torch.device, names: Sequence[int]) -> torch.Tensor:
    """The scores [B, 1] of the samples of these numbers. Raises ModelError where they are no finite floats."""
    squares_BHWC = None
    if isinstance(scorer, ImageTextScorer | ImageScorer):
        squares_BHWC = probe_squares(scorer.spec.image_size)[[name % NUM_IMAGES for name in names]].to(device)
    texts = [TEXTS[name % len(TEXTS)] for name in names]
    try:
        with torch.inference_mode():
            return torch.tensor(scores_of(scorer, squares_BHWC, texts, "the scorer"))[:, None]
    except PipelineError:
        raise
    except Exception as error:
        raise ModelError(f"scoring fails for {len(names)} samples: {type(error).__name__}: {error}") from error


def _check_scores(scorer: Scorer, device: torch.device, is_reproducible: bool) -> list[str]:
    """What is wrong with the scores."""
    names = [*range(len(TEXTS))]
    together_B1, again_B1 = _scores(scorer, device, names), _scores(scorer, device, names)
    alone_B1 = torch.cat([_scores(scorer, device, [name]) for name in names])
    apart, largest = spread(together_B1), float(together_B1.abs().max())
    tolerance = max(_SHARE * apart, _ROUNDING * largest)
    if not is_reproducible:
        return []
    if largest_distance(together_B1, again_B1) > tolerance:
        return [
            "it gives other scores on a second call: put the model in eval mode (no dropout), or say "
            "`reproducible = False` in the class."
        ]
    if largest_distance(together_B1, alone_B1) > tolerance:
        return [
            f"it is not batch-invariant: a sample alone and among others gets scores that are "
            f"{largest_distance(together_B1, alone_B1):.2g} apart, and different samples' are {apart:.2g} apart. Put "
            "the model in eval mode, use no statistics of the batch, and mask the padding of texts."
        ]
    if float((together_B1 - together_B1[0]).abs().max()) == 0:
        return ["it gives one score to different samples: it does not look at them."]
    return []
