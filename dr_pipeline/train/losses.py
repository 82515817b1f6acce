"""The student's objectives: equations (1) and (2) of the paper, and CoCa's (table 16).

Each loss is this rank's rows against every rank's columns. Its mean over ranks is the loss of one process with the
global batch, and so are the gradients that DistributedDataParallel averages. Arithmetic is float32 whatever the
autocast, float64 where the embeddings are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from dr_pipeline.config.training import StoredTeacher
from dr_pipeline.train.distributed import Rank


class Embeddings(NamedTuple):
    """A batch's embeddings of one kind: this rank's rows [B, D] and all ranks' [G, D] in rank order, each of norm 1."""

    rows_BD: torch.Tensor
    all_GD: torch.Tensor
    first: int
    """Where in all_GD this rank's rows begin."""

    @classmethod
    def gather(cls, rows_BD: torch.Tensor, rank: Rank) -> "Embeddings":
        """Of rows that every rank has as many of; gradients flow to the rank they came from."""
        rows_BD = _at_least_float32(rows_BD)
        return cls(rows_BD, rank.gather(rows_BD), rank.index * len(rows_BD))

    def columns(self, first: int, dim: int) -> "Embeddings":
        """The same rows' columns from `first` on: one teacher's."""
        kept = slice(first, first + dim)
        return Embeddings(self.rows_BD[:, kept], self.all_GD[:, kept], self.first)


class Pairs(NamedTuple):
    """Images and their captions, row by row, in one space; a teacher ensemble's spaces lie side by side."""

    images: Embeddings
    texts: Embeddings


class Captioned(NamedTuple):
    """The batch's images with one of its captions, as student and teachers see them, and what that loss counts."""

    student: Pairs
    teacher: Pairs | None
    weight: float


def total_loss(
    batch: Sequence[Captioned],
    logit_scale: torch.Tensor,
    distillation_weight: float,
    teachers: Sequence[StoredTeacher] = (),
) -> torch.Tensor:
    """Equation (2), summed over the captions by weight.

    `logit_scale`: the student's 1 / τ. `distillation_weight`: λ; at 0 no teacher is looked at, at 1 no CLIP loss is
    computed.
    """
    losses = []
    for student, teacher, weight in batch:
        if distillation_weight < 1:
            losses.append(weight * (1 - distillation_weight) * clip_loss(student, logit_scale))
        if distillation_weight > 0:
            assert teacher is not None, "distillation needs the teachers' embeddings"
            distilled = distillation_loss(student, logit_scale, teacher, teachers)
            losses.append(weight * distillation_weight * distilled)
    return torch.stack(losses).sum()


def clip_loss(student: Pairs, logit_scale: torch.Tensor) -> torch.Tensor:
    """CLIP's loss: cross-entropy of each image among all texts and of each text among all images, their mean."""
    targets_B = student.images.first + torch.arange(len(student.images.rows_BD), device=student.images.rows_BD.device)
    image_to_text_BG, text_to_image_BG = _logits(student, logit_scale)
    return (F.cross_entropy(image_to_text_BG, targets_B) + F.cross_entropy(text_to_image_BG, targets_B)) / 2


def distillation_loss(
    student: Pairs, logit_scale: torch.Tensor, teacher: Pairs, teachers: Sequence[StoredTeacher]
) -> torch.Tensor:
    """Equation (1). `teacher` holds the embeddings of `teachers` side by side, in that order."""
    student_BG = [F.log_softmax(logits_BG, dim=1) for logits_BG in _logits(student, logit_scale)]
    divergences, first = [], 0
    for one in teachers:
        images, texts = (embeddings.columns(first, one.dim) for embeddings in teacher)
        first += one.dim
        for logits_BG, log_q_BG in zip(_logits(Pairs(images, texts), one.logit_scale), student_BG, strict=True):
            log_p_BG = F.log_softmax(logits_BG, dim=1)
            divergences.append(F.kl_div(log_q_BG, log_p_BG, reduction="batchmean", log_target=True))
    return torch.stack(divergences).mean()


def caption_loss(
    logits_BLV: torch.Tensor, labels_BL: torch.Tensor, pad_id: int, num_tokens: torch.Tensor
) -> torch.Tensor:
    """Next-token cross-entropy: logits at position l predict label l; labels that are `pad_id` do not count.

    `num_tokens`: what the sum is divided by, a rank's mean number of labels that count (`count_tokens`, meant over
    ranks), so that each token of the global batch weighs the same wherever it is.
    """
    logits_NV = _at_least_float32(logits_BLV.flatten(0, 1))
    return F.cross_entropy(logits_NV, labels_BL.flatten(), ignore_index=pad_id, reduction="sum") / num_tokens


def count_tokens(labels_BL: torch.Tensor, pad_id: int) -> torch.Tensor:
    """How many labels are not padding, as a float scalar."""
    return (labels_BL != pad_id).sum().float()


def _logits(pairs: Pairs, logit_scale: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's images against all texts and its texts against all images, both [B, G]."""
    images, texts = pairs
    with torch.autocast(images.rows_BD.device.type, enabled=False):
        return (
            logit_scale * images.rows_BD @ texts.all_GD.T,
            logit_scale * texts.rows_BD @ images.all_GD.T,
        )


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
