"""What one training step takes: examples, stacked."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch

from dr_pipeline.networks.tokenizer import truncate_text
from dr_pipeline.train.data.examples import Example

Tokenizer = Callable[[list[str]], torch.Tensor]
"""Texts → token ids [B, L], int64. It travels to the loading processes: it must pickle."""


@dataclass(frozen=True)
class Batch:
    """The samples of one step on one rank; None where the job does not need a part."""

    images_BHWC: torch.Tensor
    """uint8, at the student's size."""
    tokens_BL: torch.Tensor | None
    """The ground-truth captions."""
    synthetic_tokens_BL: torch.Tensor | None
    image_emb_BD: torch.Tensor | None
    """float32, as stored: each teacher's slice has norm 1."""
    text_emb_BD: torch.Tensor | None
    synthetic_emb_BD: torch.Tensor | None
    teacher_views_BHWC: torch.Tensor | None
    """uint8, the same views at the dataset's size: for teachers in memory."""
    captions: list[str] | None
    """For teachers in memory, as `synthetic_captions`."""
    synthetic_captions: list[str] | None
    keys: list[str]
    skipped: dict[str, int]
    """Reason → samples passed over since the stream's last batch."""

    def pin_memory(self) -> Self:
        """A copy in memory that a GPU reads by itself."""
        return self._map(torch.Tensor.pin_memory)

    def to(self, device: torch.device | str) -> Self:
        """A copy on a device; from pinned memory it does not wait."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if torch.is_tensor(value)}
        return replace(self, **changed)


def collate(examples: list[Example], tokenizer: Tokenizer, skipped: dict[str, int]) -> Batch:
    """Stack examples of one job: where one lacks a part, all do."""
    captions = _texts(example.caption for example in examples)
    synthetic = _texts(example.synthetic_caption for example in examples)
    teacher_views_BHWC = _stacked(example.teacher_view_HWC for example in examples)
    images_BHWC = _stacked(example.image_HWC for example in examples)
    assert images_BHWC is not None  # every example has one
    online = teacher_views_BHWC is not None
    return Batch(
        images_BHWC=images_BHWC,
        tokens_BL=tokenizer(captions) if captions else None,
        synthetic_tokens_BL=tokenizer(synthetic) if synthetic else None,
        image_emb_BD=_stacked(example.image_emb_D for example in examples),
        text_emb_BD=_stacked(example.text_emb_D for example in examples),
        synthetic_emb_BD=_stacked(example.synthetic_emb_D for example in examples),
        teacher_views_BHWC=teacher_views_BHWC,
        captions=captions if online else None,
        synthetic_captions=synthetic if online else None,
        keys=[example.key for example in examples],
        skipped=skipped,
    )


def _stacked(parts: Iterable[np.ndarray | None]) -> torch.Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.from_numpy(np.stack(present)) if present else None


def _texts(parts: Iterable[str | None]) -> list[str] | None:
    return [truncate_text(part) for part in parts if part is not None] or None
