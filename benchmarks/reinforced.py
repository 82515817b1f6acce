"""Reinforced samples of the paper's recipe, made without models: 640 × 480 JPEGs with captions, 30 views, 1,536 dims.

The embeddings have the right size and norm, and mean nothing.
"""

import numpy as np
from photos import photo

from dr_pipeline.config.augmentation import Augmentation
from dr_pipeline.dataset.sample import Reinforcement, Sample
from dr_pipeline.views.recipe import draw

DIMS = (768, 768)
AUGMENTATION = Augmentation()


def reinforced(index: int) -> tuple[Sample, Reinforcement]:
    """One sample; its five synthetic captions are the alt-text, but their embeddings differ."""
    key, rng = f"{index:06d}", np.random.default_rng(index)
    jpeg, caption = photo(index)
    made = Reinforcement(
        views=draw(640, 480, AUGMENTATION, 0, key),
        synthetic={"syn_text": [caption] * 5},
        image_emb_ND=_unit_rows(rng, AUGMENTATION.num_views),
        text_emb_TD=_unit_rows(rng, 1),
        synthetic_emb_TD={"syn_text": _unit_rows(rng, 5)},
    )
    return Sample(key, "jpg", jpeg, caption, {}, {}), made


def _unit_rows(rng: np.random.Generator, rows: int) -> np.ndarray:
    """[rows, sum(DIMS)], float32; each teacher's slice has norm 1."""
    slices = [rng.standard_normal((rows, dim)).astype(np.float32) for dim in DIMS]
    return np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in slices], axis=1)
