"""From a batch to its loss: the towers of the student, and what they are compared with."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from dr_pipeline.config.training import StoredTeacher, TrainJob
from dr_pipeline.networks.device import autocast, memory_format
from dr_pipeline.networks.images import ImageSpec, normalise
from dr_pipeline.networks.network import Network, embed_images, embed_texts
from dr_pipeline.train.distributed import Rank
from dr_pipeline.train.losses import Captioned, Embeddings, Pairs, caption_loss, count_tokens, total_loss


class Captions(NamedTuple):
    """One kind of a batch's captions: tokens, the teachers' embeddings where they are needed, and their weight."""

    tokens_BL: torch.Tensor
    teacher_emb_BD: torch.Tensor | None
    weight: float


class Inputs(NamedTuple):
    """A rank's batch on its device."""

    images_BHWC: torch.Tensor
    teacher_emb_BD: torch.Tensor | None
    """The teachers' embeddings of the same views."""
    captions: Sequence[Captions]


class ClipObjective(nn.Module):
    """Equation (2): λ of distillation and 1 - λ of CLIP's loss, for each kind of captions."""

    def __init__(self, job: TrainJob, network: Network, teachers: Sequence[StoredTeacher], rank: Rank):
        super().__init__()
        self.module = network.module
        self._job, self._spec, self._teachers, self._rank = job, network.image, teachers, rank

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """This rank's loss; its mean over ranks is the global batch's."""
        texts = [captions.tokens_BL for captions in inputs.captions]
        images, *captions_embs = (
            Embeddings.gather(rows_BD, self._rank)
            for rows_BD in _in_parts(self._towers, self._job.schedule.accumulation, inputs.images_BHWC, *texts)
        )
        teacher_images = None
        if inputs.teacher_emb_BD is not None:
            teacher_images = Embeddings.gather(inputs.teacher_emb_BD, self._rank)
        batch = []
        for captions, texts_emb in zip(inputs.captions, captions_embs, strict=True):
            teacher = None
            if teacher_images is not None and captions.teacher_emb_BD is not None:
                teacher = Pairs(teacher_images, Embeddings.gather(captions.teacher_emb_BD, self._rank))
            batch.append(Captioned(Pairs(images, texts_emb), teacher, captions.weight))
        return total_loss(batch, logit_scale_of(self.module), self._job.distillation.weight, self._teachers)

    def _towers(self, images_BHWC: torch.Tensor, *texts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Unit embeddings [B, D] of the images and of each kind of captions."""
        images_BCHW = pixels(images_BHWC, self._spec, self.module)
        with autocast(images_BHWC.device, self._job.run.precision):
            outputs = [embed_images(self.module, images_BCHW), *(embed_texts(self.module, text) for text in texts)]
        return tuple(F.normalize(output.float(), dim=1) for output in outputs)


class CocaObjective(nn.Module):
    """CoCa's: next-token cross-entropy and CLIP's loss, weighted, for each kind of captions (table 16)."""

    def __init__(self, job: TrainJob, network: Network, rank: Rank):
        super().__init__()
        self.module: Any = network.module
        self._job, self._spec, self._rank = job, network.image, rank

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """This rank's loss; its mean over ranks is the global batch's."""
        weights = self._job.coca
        texts = [captions.tokens_BL for captions in inputs.captions]
        num_tokens = [self._rank.mean(count_tokens(tokens_BL[:, 1:], self.module.pad_id)) for tokens_BL in texts]
        outputs = _in_parts(
            partial(self._towers, num_tokens=num_tokens), self._job.schedule.accumulation, inputs.images_BHWC, *texts
        )
        images, *captions_embs = (Embeddings.gather(rows_BD, self._rank) for rows_BD in outputs[: 1 + len(texts)])
        batch = [
            Captioned(Pairs(images, texts_emb), None, captions.weight)
            for captions, texts_emb in zip(inputs.captions, captions_embs, strict=True)
        ]
        contrast = total_loss(batch, logit_scale_of(self.module), distillation_weight=0.0)
        caption_losses = outputs[1 + len(texts) :]
        captioning = torch.stack(
            [captions.weight * parts.sum() for captions, parts in zip(inputs.captions, caption_losses, strict=True)]
        )
        return weights.contrastive_weight * contrast + weights.caption_weight * captioning.sum()

    def _towers(
        self, images_BHWC: torch.Tensor, *texts: torch.Tensor, num_tokens: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Unit embeddings [B, D] of images and captions, then for each kind of captions its part [1] of the loss."""
        images_BCHW = pixels(images_BHWC, self._spec, self.module)
        with autocast(images_BHWC.device, self._job.run.precision):
            latent_BD, tokens_BSW = self.module._encode_image(images_BCHW)
            outputs = [self.module(None, text, image_latent=latent_BD, image_embs=tokens_BSW) for text in texts]
        losses = [
            caption_loss(output["logits"], output["labels"], self.module.pad_id, count)[None]
            for output, count in zip(outputs, num_tokens, strict=True)
        ]
        return (latent_BD.float(), *(output["text_features"].float() for output in outputs), *losses)


def pixels(images_BHWC: torch.Tensor, spec: ImageSpec, module: nn.Module) -> torch.Tensor:
    """uint8 images of the student's size → normalised float32 [B, 3, H, W]."""
    images_BCHW = images_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_format(module))
    return normalise(images_BCHW, spec)


def logit_scale_of(module: Any) -> torch.Tensor:
    """1 / τ of the student, learnt as its logarithm."""
    return module.logit_scale.exp()


def _in_parts(
    towers: Callable[..., tuple[torch.Tensor, ...]], num_parts: int, *inputs: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The towers' outputs for the whole batch, run micro-batch by micro-batch.

    A contrastive loss needs every embedding at once, but not every activation: these are computed a second time in the
    backward pass, one micro-batch at a time, so value and gradient are those of the whole batch.
    """
    if num_parts == 1:
        return towers(*inputs)
    parts = zip(*(values.chunk(num_parts) for values in inputs), strict=True)
    outputs = [checkpoint(towers, *part, use_reentrant=False) for part in parts]
    return tuple(torch.cat(values) for values in zip(*outputs, strict=True))
