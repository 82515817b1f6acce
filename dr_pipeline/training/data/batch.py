"""What one training step takes: selected samples, stacked.

B: samples of this rank, S: pixels of a view's side, C: 3 channels, D: dims of a teacher, L: tokens.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from dr_pipeline.dataset.sample import SYNTHETIC, TEXT, Column, Sample
from dr_pipeline.networks.tokenizer import truncate_text

if TYPE_CHECKING:
    from dr_pipeline.views.device.render import Planned


Tokenizer = Callable[[list[str]], torch.Tensor]
"""Texts → token ids [B, L], int64. It travels to the loading processes: it must pickle."""


@dataclass(frozen=True)
class Batch:
    """The samples of one step on one rank. Captions are of a kind, TEXT (ground truth) or SYNTHETIC."""

    keys: list[str]
    pixels: "torch.Tensor | list[Planned]"
    """Of the views at the student's size, uint8 [B, S, S, C]; or what a GPU makes them of, part by part."""
    tokens_BL: dict[str, torch.Tensor]
    """By kind; a kind that the job gives no weight is not there."""
    columns: dict[Column, torch.Tensor]
    """float32 [B, D] by teacher and what it is of, IMAGE or a kind of captions; each row has norm 1. A classifier's are
    PROBS_VALUES and PROBS_INDICES, LABEL_VALUES and LABEL_INDICES of its views, with int32 indices of classes.
    """
    teacher_views_BHWC: torch.Tensor | None
    """uint8, the same views at the dataset's size; None unless teachers are in memory."""
    texts: dict[str, list[str]]
    """The captions by kind; empty unless teachers are in memory."""
    skipped: dict[str, int]
    """Reason → samples passed over since the loading process made its last batch."""

    @property
    def images_BHWC(self) -> torch.Tensor:  # noqa: N802 (a tensor's name)
        """The views, uint8 [B, S, S, C]; of a batch that a GPU is to render, once it is there."""
        assert isinstance(self.pixels, torch.Tensor), "not rendered yet: `to` a device does it"
        return self.pixels

    def pin_memory(self) -> Self:
        """A copy in memory that a GPU reads by itself."""
        pinned = self._map(torch.Tensor.pin_memory)
        if isinstance(self.pixels, torch.Tensor):
            return replace(pinned, pixels=self.pixels.pin_memory())
        return replace(pinned, pixels=[part.pin_memory() for part in self.pixels])

    def to(self, device: torch.device) -> Self:
        """A copy on a device, with its views rendered; from pinned memory it does not wait."""
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=True))
        if isinstance(self.pixels, torch.Tensor):
            return replace(moved, pixels=self.pixels.to(device, non_blocking=True))
        return replace(moved, pixels=torch.cat([part.launch(device) for part in self.pixels]))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """A copy with all tensors changed but for the pixels."""
        return replace(
            self,
            tokens_BL={kind: change(tokens_BL) for kind, tokens_BL in self.tokens_BL.items()},
            columns={column: change(emb_BD) for column, emb_BD in self.columns.items()},
            teacher_views_BHWC=None if self.teacher_views_BHWC is None else change(self.teacher_views_BHWC),
        )


def collate(
    samples: Sequence[Sample],
    pixels: "torch.Tensor | list[Planned]",
    kinds: Collection[str],
    tokenizer: Tokenizer | None,
    skipped: dict[str, int],
) -> Batch:
    """Stack samples that a `Selector` of one job has narrowed to captions of these kinds; `pixels` are their views.

    `tokenizer`: None where there are no captions.
    """
    texts = {TEXT: [sample.caption for sample in samples]} if TEXT in kinds else {}
    if SYNTHETIC in kinds:
        texts[SYNTHETIC] = [captions[0] for sample in samples for captions in sample.synthetic.values()]
    texts = {kind: [truncate_text(text) for text in captions] for kind, captions in texts.items()}
    rows: dict[Column, list[np.ndarray]] = {}
    for sample in samples:
        for (teacher, of), row_1D in sample.columns.items():
            rows.setdefault(Column(teacher, SYNTHETIC if of in sample.synthetic else of), []).append(row_1D)
    teacher_views = [sample.teacher_views_NHWC for sample in samples if sample.teacher_views_NHWC is not None]
    teacher_views_BHWC = torch.from_numpy(np.concatenate(teacher_views)) if teacher_views else None
    return Batch(
        keys=[sample.key for sample in samples],
        pixels=pixels,
        tokens_BL={kind: tokenizer(captions) for kind, captions in texts.items()} if tokenizer else {},
        columns={column: torch.from_numpy(np.concatenate(rows_1D)) for column, rows_1D in rows.items()},
        teacher_views_BHWC=teacher_views_BHWC,
        texts={} if teacher_views_BHWC is None else texts,
        skipped=skipped,
    )
