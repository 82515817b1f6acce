"""What a teacher and a captioner are. A plug-in is any class of these shapes; nothing to inherit from.

The engine owns device placement, batching, resizing, normalising, inference mode, autocast, the L2 norm, the output
dtype and the checks. Heavy imports belong in the plug-in's constructor, which runs on the worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dr_pipeline.networks.images import ImageSpec

if TYPE_CHECKING:
    import torch

    from dr_pipeline.config.cards import Sampling
    from dr_pipeline.views.seeding import Stream


@dataclass(frozen=True)
class TeacherSpec(ImageSpec):
    """A CLIP teacher: `dim` is the width of the space that its images and texts share."""

    dim: int


class Teacher(Protocol):
    """A CLIP model. Constructed as `Class(device=..., **options)` with the options of its card."""

    spec: TeacherSpec

    def encode_images(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Normalised float images of `spec.image_size` on the device → embeddings [B, dim], any scale."""
        ...

    def encode_texts(self, texts: list[str]) -> "torch.Tensor":
        """T texts → embeddings [T, dim], any scale. A text's embedding must not depend on its neighbours."""
        ...


class Captioner(Protocol):
    """An image captioner. Constructed as `Class(device=..., **options)` with the options of its card."""

    spec: ImageSpec

    def caption(
        self, images_BCHW: "torch.Tensor", streams: "Sequence[Sequence[Stream]]", sampling: "Sampling"
    ) -> list[list[str]]:
        """Normalised float images of `spec.image_size` → for image b, len(streams[b]) captions.

        Every random number of caption c of image b comes from streams[b][c], so that a caption depends on neither
        batch size nor order. One that ended at the limit of tokens may be a `dataset.texts.CutCaption`, a str: these
        are counted.
        """
        ...
