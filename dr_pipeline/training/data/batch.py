"""What one training step takes: selected samples, stacked. B: samples of this rank, D: dims of a teacher, L: tokens."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from dr_pipeline.dataset.sample import TEXT, Column, Sample
from dr_pipeline.networks.tokenizer import truncate_text

SYNTHETIC = "synthetic"

Tokenizer = Callable[[list[str]], torch.Tensor]
"""Texts → token ids [B, L], int64. It travels to the loading processes: it must pickle."""


@dataclass(frozen=True)
class Batch:
    """The samples of one step on one rank. Captions are of a kind, TEXT (ground truth) or SYNTHETIC."""

    keys: list[str]
    images_BHWC: torch.Tensor
    """uint8, at the student's size."""
    tokens_BL: dict[str, torch.Tensor]
    """By kind; a kind that the job gives no weight is not there."""
    columns: dict[Column, torch.Tensor]
    """float32 [B, D] by teacher and what it is of, IMAGE or a kind of captions; each row has norm 1."""
    teacher_views_BHWC: torch.Tensor | None
    """uint8, the same views at the dataset's size; None unless teachers are in memory."""
    texts: dict[str, list[str]]
    """The captions by kind; empty unless teachers are in memory."""
    skipped: dict[str, int]
    """Reason → samples passed over since the loading process made its last batch."""

    def pin_memory(self) -> Self:
        """A copy in memory that a GPU reads by itself."""
        return self._map(torch.Tensor.pin_memory)

    def to(self, device: torch.device | str) -> Self:
        """A copy on a device; from pinned memory it does not wait."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        return replace(
            self,
            images_BHWC=change(self.images_BHWC),
            tokens_BL={kind: change(tokens_BL) for kind, tokens_BL in self.tokens_BL.items()},
            columns={column: change(emb_BD) for column, emb_BD in self.columns.items()},
            teacher_views_BHWC=None if self.teacher_views_BHWC is None else change(self.teacher_views_BHWC),
        )


def collate(samples: Sequence[Sample], kinds: Collection[str], tokenizer: Tokenizer, skipped: dict[str, int]) -> Batch:
    """Stack samples that a `Selector` of one job has narrowed to captions of these kinds."""
    texts = {TEXT: [sample.caption for sample in samples]} if TEXT in kinds else {}
    if SYNTHETIC in kinds:
        texts[SYNTHETIC] = [captions[0] for sample in samples for captions in sample.synthetic.values()]
    texts = {kind: [truncate_text(text) for text in captions] for kind, captions in texts.items()}
    rows: dict[Column, list[np.ndarray]] = {}
    for sample in samples:
        for (teacher, of), row_1D in sample.columns.items():
            rows.setdefault(Column(teacher, SYNTHETIC if of in sample.synthetic else of), []).append(row_1D)
    images_BHWC = _stacked(sample.views_NHWC for sample in samples)
    assert images_BHWC is not None, "a selected sample has pixels"
    teacher_views_BHWC = _stacked(sample.teacher_views_NHWC for sample in samples)
    return Batch(
        keys=[sample.key for sample in samples],
        images_BHWC=images_BHWC,
        tokens_BL={kind: tokenizer(captions) for kind, captions in texts.items()},
        columns={column: torch.from_numpy(np.concatenate(rows_1D)) for column, rows_1D in rows.items()},
        teacher_views_BHWC=teacher_views_BHWC,
        texts={} if teacher_views_BHWC is None else texts,
        skipped=skipped,
    )


def _stacked(views_1HWC: Iterable[np.ndarray | None]) -> torch.Tensor | None:
    present = [view_1HWC for view_1HWC in views_1HWC if view_1HWC is not None]
    return torch.from_numpy(np.concatenate(present)) if present else None
