"""Scorers by any teacher: how well image and text fit together, and what a head on the image's embedding says.

A card names the teacher's class in its option `teacher`, by default open_clip's, and that class's options beside it.

Shapes: B images or texts, H = W pixels, C = 3 channels, D columns of an embedding.
"""

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from dr_pipeline.errors import ModelError

if TYPE_CHECKING:
    import torch

    from dr_pipeline.networks.cost import Cost

OPEN_CLIP = "dr_pipeline.models.open_clip:OpenClipTeacher"


class _ByTeacher:
    """A scorer that has a teacher embed what it scores, with weights that are rounded as the teacher's are."""

    @staticmethod
    def cost(teacher: str = OPEN_CLIP, head: str = "", activation: str = "", **options: Any) -> "Cost | None":
        """The teacher's cost, where it can tell: a head costs next to nothing. Raises as `card_cost`."""
        from dr_pipeline.config.cards import Card
        from dr_pipeline.models.cards import card_cost

        return card_cost(Card(name=teacher.rpartition(":")[2], use=teacher, options=options, digests={}))

    def __init__(self, device: "torch.device", teacher: str, options: dict[str, Any]):
        from dr_pipeline.config.cards import TeacherCard
        from dr_pipeline.models.load import load_teacher
        from dr_pipeline.models.protocol import ImageTeacher, OwnPrecision, is_reproducible

        card = TeacherCard(name=teacher.rpartition(":")[2], use=teacher, options=options, digests={})
        self._device, self._teacher = device, load_teacher(card, device)
        if not isinstance(self._teacher, ImageTeacher):
            raise ModelError(f"options.teacher: {teacher} does not encode images")
        self._encode_images, self.spec = self._teacher.encode_images, self._teacher.spec.images
        self.reproducible = is_reproducible(self._teacher)
        if isinstance(self._teacher, OwnPrecision):
            self.to_precision = self._round_weights

    def _round_weights(self, dtype: "torch.dtype") -> None:
        from dr_pipeline.models.precision import round_weights

        round_weights(self._teacher, self._device)


class SimilarityScorer(_ByTeacher):
    """The cosine of image and alt-text by a teacher of both: CLIP's score, or that of a data filtering network (DFN).

    A card: `use: dr_pipeline.models.scorers:SimilarityScorer`.
    """

    def __init__(self, device: "torch.device", teacher: str = OPEN_CLIP, **options: Any):
        from dr_pipeline.models.protocol import TextTeacher

        super().__init__(device, teacher, options)
        if not isinstance(self._teacher, TextTeacher):
            raise ModelError(f"options.teacher: {teacher} does not encode texts, which are scored with images here")
        self._encode_texts = self._teacher.encode_texts

    def score(self, images_BCHW: "torch.Tensor", texts: list[str]) -> "torch.Tensor":
        """Normalised float images and their alt-texts → cosines [B]."""
        from torch.nn.functional import cosine_similarity

        image_emb_BD = self._encode_images(images_BCHW).float()
        text_emb_BD = self._encode_texts(texts).float()
        return cosine_similarity(image_emb_BD, text_emb_BD, dim=1)


class AestheticScorer(_ByTeacher):
    """How pleasing an image is by a head on its unit embedding: linear layers, as LAION's predictors have.

    A card: `use: dr_pipeline.models.scorers:AestheticScorer`; `head` is a file of `weight` and `bias`, or of
    `layers.0.weight`, `layers.0.bias`, …, in the order of their numbers, with one output; `activation`, none or relu,
    is what stands between them.
    """

    def __init__(
        self,
        device: "torch.device",
        head: str,
        activation: Literal["none", "relu"] = "none",
        teacher: str = OPEN_CLIP,
        **options: Any,
    ):
        if activation not in ("none", "relu"):
            raise ModelError(f"options.activation: {activation!r} is neither none nor relu")
        super().__init__(device, teacher, options)
        self._layers = _read_head(head, self._teacher.spec.dim, device)
        self._has_relu = activation == "relu"

    def score_images(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Normalised float images → scores [B]."""
        from torch.nn import functional as F

        from dr_pipeline.networks.device import no_autocast

        with no_autocast(self._device):
            hidden_BD = F.normalize(self._encode_images(images_BCHW).float(), dim=1)
            for index, (weight, bias) in enumerate(self._layers):
                hidden_BD = F.linear(F.relu(hidden_BD) if index and self._has_relu else hidden_BD, weight, bias)
        return hidden_BD[:, 0]


def _read_head(head: str, dim: int, device: "torch.device") -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """The weight [outputs, inputs] and bias [outputs] of each layer, from `dim` inputs to one output.

    Raises ModelError where the file holds other layers.
    """
    from dr_pipeline.networks.files import resource
    from dr_pipeline.networks.weights import read_weights

    tensors = {name: tensor.float().to(device) for name, tensor in read_weights(resource(head)).items()}
    weights = sorted(
        (name for name in tensors if name.endswith("weight")),
        key=lambda name: [int(number) for number in re.findall(r"\d+", name)],
    )
    layers = [(tensors[name], tensors.get(name.removesuffix("weight") + "bias")) for name in weights]
    sizes = [dim, *(len(weight) for weight, _ in layers)]
    shapes = [list(weight.shape) for weight, _ in layers]
    fit_together = shapes == [[outputs, inputs] for inputs, outputs in pairwise(sizes)]
    if not (layers and fit_together and sizes[-1] == 1 and len(tensors) == 2 * len(layers)):
        raise ModelError(
            f"options.head: {head} is no chain of linear layers with biases from {dim} inputs to one output: its "
            f"weights are {shapes}"
        )
    return [(weight, bias) for weight, bias in layers if bias is not None]
