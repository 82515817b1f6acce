"""From a batch to its loss on the device: the student's towers, then the losses of `training.losses`.

B: rows of this rank, D: dims of an embedding, H, W, C: height, width and channels of an image, L: tokens of a text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa
from torch import nn
from torch.utils.checkpoint import checkpoint

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import IMAGE, LABEL_INDICES, LABEL_VALUES, PROBS_INDICES, PROBS_VALUES, Column
from dr_pipeline.errors import ConfigError
from dr_pipeline.networks.classifier import Classifier
from dr_pipeline.networks.device import autocast, memory_format
from dr_pipeline.networks.images import host_tensor, normalise
from dr_pipeline.networks.network import Network, embed_images, embed_texts, pools_at_end_of_text
from dr_pipeline.training.data.batch import Batch
from dr_pipeline.training.distributed import Rank
from dr_pipeline.training.losses import (
    Embeddings,
    KnownClasses,
    Rows,
    affinity_loss,
    caption_loss,
    class_divergence,
    clip_loss,
    count_tokens,
    label_loss,
    total_loss,
)


class Comparison(NamedTuple):
    """The teachers that a loss compares the student with, by name."""

    scales: Mapping[str, float]
    """Of equation (1): 1 / τ."""
    affinities: Mapping[str, tuple[float, float]] = {}
    """Of the affinity loss: its weight, and 1 / τ."""


class Objective(nn.Module):
    """Takes a `Batch` and gives [1 + P]: the loss of this rank, and without gradient the weighted parts that it is the
    sum of.
    """

    parts: tuple[str, ...]
    """What the parts are called."""


def make_objective(job: TrainJob, network: Network | Classifier, comparison: Comparison, rank: Rank) -> Objective:
    """The job's objective. The mean of its loss over ranks is that of the global batch.

    Raises ConfigError where the objective does not train the network's architecture.
    """
    if isinstance(network, Classifier):
        return ClassifyObjective(job, network)
    if isinstance(network.module, CoCa) != (job.objective == "coca"):
        other = "clip" if job.objective == "coca" else "coca"
        kind = type(network.module).__name__
        raise ConfigError(
            f"objective {job.objective}: student.architecture {job.student.architecture} is a {kind}: "
            f"name another architecture, or set objective={other}"
        )
    if job.objective == "coca":
        return CocaObjective(job, network, rank)
    return ClipObjective(job, network, comparison, rank)


class ClipObjective(Objective):
    """Equation (2): λ of distillation and 1 - λ of CLIP's loss, weighted for each kind of captions; and affinities."""

    def __init__(self, job: TrainJob, network: Network, comparison: Comparison, rank: Rank):
        super().__init__()
        self.module: Any = network.module
        self._job, self._network, self._comparison, self._rank = job, network, comparison, rank
        self.parts = (*job.caption_weights, *(["affinity"] if comparison.affinities else []))

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss of this rank, and its parts [1 + P]."""
        images_BD, *texts_BD = _in_parts(
            self._towers, self._job.schedule.accumulation, batch.images_BHWC, *batch.tokens_BL.values()
        )
        student = _gather_pairs(images_BD, texts_BD, self.module.logit_scale.exp(), self._rank)
        teachers = [
            _gather_pairs(
                batch.columns[Column(name, IMAGE)],
                [batch.columns[Column(name, kind)] for kind in batch.tokens_BL],
                logit_scale,
                self._rank,
            )
            for name, logit_scale in self._comparison.scales.items()
        ]
        losses = [
            self._job.captions.weights[kind] * total_loss(own, theirs, self._job.distillation)
            for kind, own, *theirs in zip(batch.tokens_BL, student, *teachers, strict=True)
        ]
        affinities = [*self._affinities(batch, student)]
        parts = [*losses, torch.stack(affinities).sum()] if affinities else losses
        return _with_parts(torch.stack([*losses, *affinities]).sum(), parts)

    def _affinities(self, batch: Batch, student: Sequence[Embeddings]) -> Iterator[torch.Tensor]:
        """The weighted affinity losses: of each teacher one of the images, and one of each kind of captions."""
        first = student[0].first
        own = {IMAGE: (1.0, Rows(student[0].images_BD, student[0].all_images_GD, first))}
        for kind, captions in zip(batch.tokens_BL, student, strict=True):
            own[kind] = self._job.captions.weights[kind], Rows(captions.texts_BD, captions.all_texts_GD, first)
        for name, (weight, logit_scale) in self._comparison.affinities.items():
            for of, (weight_of, rows) in own.items():
                if (emb_BD := batch.columns.get(Column(name, of))) is not None:
                    teacher = Rows(emb_BD, self._rank.gather(emb_BD), first)
                    yield weight * weight_of * affinity_loss(rows, teacher, logit_scale)

    def _towers(self, images_BHWC: torch.Tensor, *tokens_BL: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Unit embeddings [B, D] of the images and of each kind of captions."""
        images_BCHW = _normalised(images_BHWC, self._network)
        with autocast(images_BHWC.device, self._job.run.precision):
            images_BD = embed_images(self.module, images_BCHW)
            texts_BD: Sequence[torch.Tensor]
            if pools_at_end_of_text(self.module):  # each kind is cut behind its own longest text
                texts_BD = [embed_texts(self.module, one_BL) for one_BL in tokens_BL]
            else:
                all_TL = host_tensor(torch.cat(tokens_BL), next(self.module.parameters()).device)
                texts_BD = embed_texts(self.module, all_TL).split(len(tokens_BL[0]))
        return tuple(F.normalize(output.float(), dim=1) for output in (images_BD, *texts_BD))


class CocaObjective(Objective):
    """CoCa's: next-token cross-entropy and CLIP's loss, weighted for each kind of captions (table 16)."""

    def __init__(self, job: TrainJob, network: Network, rank: Rank):
        super().__init__()
        self.module: Any = network.module
        self._job, self._network, self._rank = job, network, rank
        self.parts = ("contrastive", "captions")

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss of this rank, and its parts [1 + P]."""
        device = batch.images_BHWC.device
        tokens_BL = [one_BL.to(device, non_blocking=True) for one_BL in batch.tokens_BL.values()]
        pad_id = self.module.pad_id
        num_tokens = [self._rank.mean(count_tokens(one_BL[:, 1:], pad_id)) for one_BL in tokens_BL]
        towers = partial(self._towers, num_tokens=num_tokens)
        images_BD, *outputs = _in_parts(towers, self._job.schedule.accumulation, batch.images_BHWC, *tokens_BL)
        texts_BD, caption_losses = outputs[: len(tokens_BL)], outputs[len(tokens_BL) :]
        student = _gather_pairs(images_BD, texts_BD, self.module.logit_scale.exp(), self._rank)
        weights = [self._job.captions.weights[kind] for kind in batch.tokens_BL]
        contrast = torch.stack([weight * clip_loss(own) for weight, own in zip(weights, student, strict=True)])
        captioning = torch.stack([weight * part.sum() for weight, part in zip(weights, caption_losses, strict=True)])
        coca = self._job.coca
        parts = [coca.contrastive_weight * contrast.sum(), coca.caption_weight * captioning.sum()]
        return _with_parts(parts[0] + parts[1], parts)

    def _towers(
        self, images_BHWC: torch.Tensor, *tokens_BL: torch.Tensor, num_tokens: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Unit embeddings [B, D] of images and captions, then for each kind of captions its part [1] of the loss."""
        images_BCHW = _normalised(images_BHWC, self._network)
        with autocast(images_BHWC.device, self._job.run.precision):
            latent_BD, tokens_BSW = self.module._encode_image(images_BCHW)
            outputs = [self.module(None, one, image_latent=latent_BD, image_embs=tokens_BSW) for one in tokens_BL]
        losses = [
            caption_loss(output["logits"], output["labels"], self.module.pad_id, count)[None]
            for output, count in zip(outputs, num_tokens, strict=True)
        ]
        return (latent_BD.float(), *(output["text_features"].float() for output in outputs), *losses)


class ClassifyObjective(Objective):
    """λ of the divergence from the teachers' class probabilities, and 1 - λ of the cross-entropy with the labels."""

    def __init__(self, job: TrainJob, network: Classifier):
        super().__init__()
        self.module: Any = network.module
        self._job, self._network = job, network
        weight = job.distillation.weight
        self.parts = (*(["labels"] if weight < 1 else []), *(["teachers"] if weight > 0 else []))

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss of this rank, and its parts [1 + P]."""
        (logits_BM,) = _in_parts(self._logits, self._job.schedule.accumulation, batch.images_BHWC)
        weight, losses = self._job.distillation.weight, []
        if weight < 1:
            labels = _classes(batch, LABEL_VALUES, LABEL_INDICES)
            losses.append((1 - weight) * label_loss(logits_BM, labels, self._job.classify.label_smoothing))
        if weight > 0:
            losses.append(weight * class_divergence(logits_BM, _classes(batch, PROBS_VALUES, PROBS_INDICES)))
        return _with_parts(torch.stack(losses).sum(), losses)

    def _logits(self, images_BHWC: torch.Tensor) -> tuple[torch.Tensor]:
        """Of each image [B, M]."""
        images_BCHW = _normalised(images_BHWC, self._network)
        with autocast(images_BHWC.device, self._job.run.precision):
            return (self.module(images_BCHW),)


def _with_parts(loss: torch.Tensor, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The loss, with its gradient, and its parts without [1 + P]."""
    return torch.stack([loss, *(part.detach() for part in parts)])


def _classes(batch: Batch, values: str, indices: str) -> KnownClasses:
    """What two columns of the views say of their classes."""
    return KnownClasses(batch.columns[Column(values, IMAGE)], batch.columns[Column(indices, IMAGE)].long())


def _gather_pairs(
    images_BD: torch.Tensor, texts_BD: Sequence[torch.Tensor], logit_scale: torch.Tensor | float, rank: Rank
) -> list[Embeddings]:
    """One model's images with each kind of captions, and the rows of all ranks, which are gathered once."""
    all_images_GD, first = rank.gather(images_BD), rank.index * len(images_BD)
    return [
        Embeddings(images_BD, one_BD, logit_scale, all_images_GD, rank.gather(one_BD), first) for one_BD in texts_BD
    ]


def _normalised(images_BHWC: torch.Tensor, network: Network | Classifier) -> torch.Tensor:
    """uint8 images of the student's size → normalised float32 [B, C, H, W]."""
    images_BCHW = images_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_format(network.module))
    return normalise(images_BCHW, network.image)


def _in_parts(
    towers: Callable[..., tuple[torch.Tensor, ...]], num_parts: int, *inputs: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The towers' outputs for the whole batch, computed in `num_parts` micro-batches.

    A contrastive loss needs every embedding at once, but not every activation. The activations are computed a second
    time in the backward pass, one micro-batch at a time, so that value and gradient are those of the whole batch.
    """
    if num_parts == 1:
        return towers(*inputs)
    parts = zip(*(values.chunk(num_parts) for values in inputs), strict=True)
    outputs = [checkpoint(towers, *part, use_reentrant=False) for part in parts]
    return tuple(torch.cat(values) for values in zip(*outputs, strict=True))
