"""The scores that a scorer, of any of its kinds, gives to a batch of samples, checked.

Shapes: B images and their texts, H = W pixels, C = 3 channels.
"""

from typing import Any

import torch

from dr_pipeline.errors import ModelError
from dr_pipeline.models.protocol import ImageScorer, ImageTextScorer, Scorer
from dr_pipeline.networks.images import prepare
from dr_pipeline.words import plural


def scores_of(scorer: Scorer, squares_BHWC: torch.Tensor | None, texts: list[str], who: str) -> list[float]:
    """The scores of square uint8 images on the device, None for a scorer of texts, and of their alt-texts.

    Raises ModelError, saying what `who` returned, unless it is a finite float for each.
    """
    output: Any
    num_samples = len(texts)
    if isinstance(scorer, ImageTextScorer) and squares_BHWC is not None:
        who, output = f"{who}: score", scorer.score(prepare(squares_BHWC, scorer.spec), texts)
    elif isinstance(scorer, ImageScorer) and squares_BHWC is not None:
        who, output = f"{who}: score_images", scorer.score_images(prepare(squares_BHWC, scorer.spec))
    else:
        assert not isinstance(scorer, ImageTextScorer | ImageScorer)
        who, output = f"{who}: score_texts", scorer.score_texts(texts)
    if not isinstance(output, torch.Tensor):
        raise ModelError(f"{who} returned a {type(output).__name__}; return one tensor [{num_samples}]")
    if tuple(output.shape) != (num_samples,) or not output.is_floating_point():
        raise ModelError(
            f"{who} returned {output.dtype} of shape {list(output.shape)} for {plural(num_samples, 'sample')}; "
            f"return floats [{num_samples}], one a sample"
        )
    scores: list[float] = output.detach().float().tolist()
    bad = [index for index, finite in enumerate(torch.isfinite(torch.tensor(scores)).tolist()) if not finite]
    if bad:
        raise ModelError(
            f"{who} returned NaN or infinity for {len(bad)} of {plural(num_samples, 'sample')}, first for "
            f"sample {bad[0]}"
        )
    return scores
