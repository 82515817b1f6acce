"""From a loaded batch to the objective's inputs: on the device, with the teachers' embeddings, stored or made now."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from dr_pipeline.config.training import StoredTeacher, TrainJob
from dr_pipeline.errors import ConfigError
from dr_pipeline.train.data.batch import Batch
from dr_pipeline.train.objective import Captions, Inputs


class OnlineTeachers(Protocol):
    """Teachers in memory. Each gives float32 embeddings [B, dim] of norm 1, by its name."""

    dims: dict[str, int]
    image_teachers: list[str]
    text_teachers: list[str]

    def embed_images(self, views_BHWC: np.ndarray) -> dict[str, np.ndarray]:
        """Square uint8 RGB views → their embeddings by teacher."""
        ...

    def embed_texts(self, texts: list[str]) -> dict[str, np.ndarray]:
        """T texts → their embeddings by teacher."""
        ...


class Feed:
    """Moves batches to the device, and asks the teachers in memory where there are any."""

    def __init__(
        self, job: TrainJob, device: torch.device, teachers: OnlineTeachers | None, columns: Sequence[int] | None
    ):
        """`columns`: those of the embeddings that the loss compares with; None: all."""
        self._captions, self._device, self._teachers = job.captions, device, teachers
        self._columns = None if columns is None else torch.tensor(columns, device=device)

    def inputs(self, batch: Batch) -> Inputs:
        """What the objective takes of a batch: the kinds of captions that count, each with its weight."""
        moved = batch.to(self._device)
        ground_truth, synthetic = self._captions.ground_truth_weight, self._captions.synthetic_weight
        kinds = (
            (moved.tokens_BL, self._texts(batch.captions, moved.text_emb_BD), ground_truth),
            (moved.synthetic_tokens_BL, self._texts(batch.synthetic_captions, moved.synthetic_emb_BD), synthetic),
        )
        captions = [Captions(tokens_BL, emb_BD, weight) for tokens_BL, emb_BD, weight in kinds if tokens_BL is not None]
        return Inputs(moved.images_BHWC, self._images(batch.teacher_views_BHWC, moved.image_emb_BD), captions)

    def _images(self, views_BHWC: torch.Tensor | None, stored_BD: torch.Tensor | None) -> torch.Tensor | None:
        if self._teachers is None or views_BHWC is None:
            return self._compared(stored_BD)
        return self._compared(self._joined(self._teachers.embed_images(views_BHWC.numpy())))

    def _texts(self, texts: list[str] | None, stored_BD: torch.Tensor | None) -> torch.Tensor | None:
        if self._teachers is None or texts is None:
            return self._compared(stored_BD)
        return self._compared(self._joined(self._teachers.embed_texts(texts)))

    def _joined(self, columns: dict[str, np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([*columns.values()], axis=1)).to(self._device)

    def _compared(self, emb_BD: torch.Tensor | None) -> torch.Tensor | None:
        return emb_BD if emb_BD is None or self._columns is None else emb_BD[:, self._columns]


def online_columns(job: TrainJob, teachers: OnlineTeachers) -> tuple[StoredTeacher, ...]:
    """The columns of what teachers in memory return, with their cards' logit scales. Raises ConfigError."""
    scales = {card.name: card.logit_scale for card in job.distillation.online_teachers}
    if not teachers.image_teachers == teachers.text_teachers == list(teachers.dims):
        raise ConfigError("distillation.online_teachers: each must embed both images and texts, and one does not")
    return tuple(StoredTeacher(name=name, dim=dim, logit_scale=scales[name]) for name, dim in teachers.dims.items())
