"""The student's losses: equations (1) and (2) of the paper, and CoCa's (table 16). They need tensors alone.

B: rows of this rank, G: rows of all ranks, D: dims of an embedding, L: tokens of a text, V: size of the vocabulary,
M: classes, K: classes whose probability is known.

Each loss compares the rows of this rank with the rows of all ranks. Its mean over ranks is the loss of one process that
has the global batch, and so are the gradients that DistributedDataParallel averages. Arithmetic is in float32 also
under autocast, and in float64 where the embeddings are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from dr_pipeline.config.objective import Distillation


class Embeddings(NamedTuple):
    """A batch of images and their captions, row by row, as one model embeds them. Each row has norm 1.

    In distributed training `all_images_GD` and `all_texts_GD` hold the rows of all ranks, as many of each rank and in
    the order of ranks, and `first` is the place of this rank's first row among them. Without them the batch is whole.
    """

    images_BD: torch.Tensor
    texts_BD: torch.Tensor
    logit_scale: torch.Tensor | float
    """1 / τ."""
    all_images_GD: torch.Tensor | None = None
    all_texts_GD: torch.Tensor | None = None
    first: int = 0

    def logits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The images of this rank against all texts, and its texts against all images, both [B, G]."""
        with torch.autocast(self.images_BD.device.type, enabled=False):
            images_BD, texts_BD = _at_least_float32(self.images_BD), _at_least_float32(self.texts_BD)
            all_images_GD = images_BD if self.all_images_GD is None else _at_least_float32(self.all_images_GD)
            all_texts_GD = texts_BD if self.all_texts_GD is None else _at_least_float32(self.all_texts_GD)
            return self.logit_scale * images_BD @ all_texts_GD.T, self.logit_scale * texts_BD @ all_images_GD.T


class Rows(NamedTuple):
    """A batch of views, or of captions of one kind, as one model embeds them. Each row has norm 1.

    In distributed training `all_GD` and `first` are as those of `Embeddings`.
    """

    own_BD: torch.Tensor
    all_GD: torch.Tensor | None = None
    first: int = 0

    def log_affinities(self, logit_scale: float) -> torch.Tensor:
        """The logarithm of the softmax over each row of similarities with all others, [B, G]; own ones count as 0."""
        with torch.autocast(self.own_BD.device.type, enabled=False):
            own_BD = _at_least_float32(self.own_BD)
            all_GD = own_BD if self.all_GD is None else _at_least_float32(self.all_GD)
            logits_BG = logit_scale * own_BD @ all_GD.T
        is_own_BG = torch.zeros_like(logits_BG, dtype=torch.bool)
        is_own_BG.diagonal(self.first).fill_(True)
        # Not minus infinity, whose difference from itself, in the divergence, is no number.
        return F.log_softmax(logits_BG.masked_fill(is_own_BG, torch.finfo(logits_BG.dtype).min), dim=1)


def affinity_loss(student: Rows, teacher: Rows, logit_scale: float) -> torch.Tensor:
    """How far the student's similarities within one modality are from a teacher's, a scalar.

        1 / B · Σ_i KL( A_τ(Ψ)_i ‖ A_τ(Φ)_i ),   A_τ(U)_ij = exp(u_i · u_j / τ) / Σ_{l ≠ i} exp(u_i · u_l / τ),  j ≠ i

    Φ are the student's embeddings, Ψ the teacher's of the same views, with dims of its own; both have the temperature
    τ, 1 / `logit_scale`. It needs no second modality: TinyCLIP (arXiv 2309.12314) calls a row's softmax an affinity and
    mimics it between images and texts, CompRess (arXiv 2010.14713) mimics it between images.
    """
    log_p_BG, log_q_BG = teacher.log_affinities(logit_scale), student.log_affinities(logit_scale)
    return F.kl_div(log_q_BG, log_p_BG, reduction="batchmean", log_target=True)


def total_loss(student: Embeddings, teachers: Sequence[Embeddings], distillation: Distillation) -> torch.Tensor:
    """Equation (2): (1 - λ) of `clip_loss` and λ of `distillation_loss`. A loss of weight 0 is not computed."""
    losses = []
    if distillation.weight < 1:
        losses.append((1 - distillation.weight) * clip_loss(student))
    if distillation.weight > 0:
        losses.append(distillation.weight * distillation_loss(student, teachers))
    return torch.stack(losses).sum()


def clip_loss(student: Embeddings) -> torch.Tensor:
    """CLIP's loss: the mean of the cross-entropy of each image among all texts and of each text among all images."""
    image_to_text_BG, text_to_image_BG = student.logits()
    targets_B = student.first + torch.arange(len(student.images_BD), device=student.images_BD.device)
    return (F.cross_entropy(image_to_text_BG, targets_B) + F.cross_entropy(text_to_image_BG, targets_B)) / 2


def distillation_loss(student: Embeddings, teachers: Sequence[Embeddings]) -> torch.Tensor:
    """Equation (1), a scalar: how far the student's similarities are from those of K teachers.

        1 / (2 B K) · Σ_k [ KL(S_τk(Ψ_img, Ψ_txt) ‖ S_τ(Φ_img, Φ_txt)) + KL(S_τk(Ψ_txt, Ψ_img) ‖ S_τ(Φ_txt, Φ_img)) ]

    S_τ(U, V) is the softmax of each row of U Vᵀ / τ, Φ are the student's embeddings with its τ, Ψ those of teacher k
    with τk, and KL sums over the rows. Each teacher has dims of its own; its rows are those of the student: the same
    views and the same captions.
    """
    student_BG = [F.log_softmax(logits_BG, dim=1) for logits_BG in student.logits()]
    divergences = [
        F.kl_div(log_q_BG, F.log_softmax(logits_BG, dim=1), reduction="batchmean", log_target=True)
        for teacher in teachers
        for logits_BG, log_q_BG in zip(teacher.logits(), student_BG, strict=True)
    ]
    return torch.stack(divergences).mean()


class KnownClasses(NamedTuple):
    """What is known of the classes of a batch: K probabilities of each row, and whose they are.

    The rest of a row, up to 1, belongs to the other classes in equal parts, as ml-dr's densify "smooth" has it.
    """

    values_BK: torch.Tensor
    indices_BK: torch.Tensor

    def among(self, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The probabilities [B, K], and that of each other class [B]. Rows that rounding took above 1 are scaled."""
        total_B = self.values_BK.sum(dim=1)
        num_others = num_classes - self.values_BK.shape[1]
        if not num_others:
            return self.values_BK / total_B[:, None], torch.zeros_like(total_B)
        return self.values_BK / total_B.clamp(min=1)[:, None], (1 - total_B).clamp(min=0) / num_others


def class_divergence(logits_BM: torch.Tensor, teachers: KnownClasses) -> torch.Tensor:
    """KL(p ‖ q), the mean over rows: how far the student's probabilities q are from the teachers' p.

    It is exact, though no row of M probabilities is made of the known ones.
    """
    values_BK, other_B = teachers.among(logits_BM.shape[1])
    num_others = logits_BM.shape[1] - values_BK.shape[1]
    negentropy_B = torch.xlogy(values_BK, values_BK).sum(dim=1) + num_others * torch.xlogy(other_B, other_B)
    return negentropy_B.mean() + _cross_entropy(logits_BM, teachers)


def label_loss(logits_BM: torch.Tensor, labels: KnownClasses, smoothing: float) -> torch.Tensor:
    """The cross-entropy with labels, the mean over rows; `smoothing` is the part of each that all M classes share."""
    loss = _cross_entropy(logits_BM, labels)
    if smoothing:
        loss = (1 - smoothing) * loss - smoothing * F.log_softmax(_at_least_float32(logits_BM), dim=1).mean()
    return loss


def _cross_entropy(logits_BM: torch.Tensor, classes: KnownClasses) -> torch.Tensor:
    """- Σ_m p_m log q_m, the mean over rows."""
    values_BK, other_B = classes.among(logits_BM.shape[1])
    log_q_BM = F.log_softmax(_at_least_float32(logits_BM), dim=1)
    log_q_BK = log_q_BM.gather(1, classes.indices_BK)
    others_B = log_q_BM.sum(dim=1) - log_q_BK.sum(dim=1)
    return -((values_BK * log_q_BK).sum(dim=1) + other_B * others_B).mean()


def caption_loss(
    logits_BLV: torch.Tensor, labels_BL: torch.Tensor, pad_id: int, num_tokens: torch.Tensor
) -> torch.Tensor:
    """Next-token cross-entropy: the logits at position l predict label l; labels that are `pad_id` do not count.

    The sum is divided by `num_tokens`, the mean over ranks of how many labels count (`count_tokens`): each token of the
    global batch then weighs the same, whichever rank has it.
    """
    logits_NV = _at_least_float32(logits_BLV.flatten(0, 1))
    return F.cross_entropy(logits_NV, labels_BL.flatten(), ignore_index=pad_id, reduction="sum") / num_tokens


def count_tokens(labels_BL: torch.Tensor, pad_id: int) -> torch.Tensor:
    """How many labels are not padding, as a float scalar."""
    return (labels_BL != pad_id).sum().float()


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
