"""Teachers that are in memory while the student trains: they embed each batch, so that nothing need be stored."""

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from dr_pipeline.dataset.sample import IMAGE, Column
from dr_pipeline.training.data.batch import Batch


class OnlineTeachers(Protocol):
    """Teachers in memory. Each gives float32 [B, D] of norm 1, by its name; D is its number of dims."""

    dims: dict[str, int]
    image_teachers: list[str]
    text_teachers: list[str]

    def embed_images(self, views_BHWC: np.ndarray) -> dict[str, np.ndarray]:
        """Square uint8 RGB views → their embeddings by teacher."""
        ...

    def embed_texts(self, texts: list[str]) -> dict[str, np.ndarray]:
        """T texts → their embeddings by teacher."""
        ...


def with_columns(batch: Batch, teachers: OnlineTeachers) -> Batch:
    """The batch with the columns that the teachers make of its views and captions, in place of these two."""
    assert batch.teacher_views_BHWC is not None, "the loader makes them where the job has teachers in memory"
    made = {IMAGE: teachers.embed_images(batch.teacher_views_BHWC.numpy())}
    made |= {kind: teachers.embed_texts(texts) for kind, texts in batch.texts.items()}
    columns = {
        Column(name, of): torch.from_numpy(emb_BD) for of, by_name in made.items() for name, emb_BD in by_name.items()
    }
    return replace(batch, columns=batch.columns | columns, teacher_views_BHWC=None, texts={})
