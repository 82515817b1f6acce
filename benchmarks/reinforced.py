"""Reinforced samples of the paper's recipe, made without models: 640 × 480 JPEGs with captions, 30 views, 1,536 dims.

The embeddings have the right size and norm, and mean nothing.
"""

import numpy as np
from photos import photo

from dr_pipeline.config.augmentation import Augmentation
from dr_pipeline.dataset.sample import IMAGE, TEXT, Column, Sample
from dr_pipeline.views.recipe import Recipe, draw

DIMS = (768, 768)
AUGMENTATION = Augmentation()


def reinforced(index: int) -> Sample:
    """One sample; its five synthetic captions are the alt-text, but their embeddings differ."""
    key, rng = f"{index:06d}", np.random.default_rng(index)
    jpeg, caption = photo(index)
    num_rows = {IMAGE: AUGMENTATION.num_views, TEXT: 1, "syn_text": 5}
    return Sample(
        key,
        {"jpg": jpeg},
        caption=caption,
        synthetic={"syn_text": [caption] * 5},
        views=draw(640, 480, Recipe(AUGMENTATION), AUGMENTATION.num_views, 0, key),
        columns={
            Column(f"teacher {number}", of): _unit_rows(rng, rows, dim)
            for of, rows in num_rows.items()
            for number, dim in enumerate(DIMS)
        },
    )


def _unit_rows(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    """[rows, dim], float32, of norm 1."""
    emb_RD = rng.standard_normal((rows, dim)).astype(np.float32)
    return emb_RD / np.linalg.norm(emb_RD, axis=1, keepdims=True)
