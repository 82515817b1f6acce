"""Any model of open_clip (CLIP, SigLIP, CoCa, …) as a teacher."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from dr_pipeline.models.replay import ReplayedBatches
    from dr_pipeline.networks.compiled import CompiledTowers
    from dr_pipeline.networks.cost import Cost

_LENGTHS = 16
"""Replayed texts are padded to multiples of so many tokens: each length is a graph."""


class OpenClipTeacher:
    """A teacher's card: `use: dr_pipeline.models.open_clip:OpenClipTeacher`; options as for `load_network`."""

    @staticmethod
    def cost(model: str, weights: str, **options: Any) -> "Cost | None":
        """The cost of the network. Raises ModelError as `network_cost`."""
        from dr_pipeline.networks.counting import network_cost

        return network_cost(model, weights, **options)

    def __init__(
        self,
        device: "torch.device",
        model: str,
        weights: str,
        tokenizer: str | None = None,
        context_length: int | None = None,
    ):
        from dr_pipeline.models.protocol import TeacherSpec
        from dr_pipeline.networks.network import load_network

        network = load_network(model, weights, device, tokenizer=tokenizer, context_length=context_length)
        image = network.image
        self.spec = TeacherSpec(dim=network.dim, image_size=image.image_size, mean=image.mean, std=image.std)
        self.tokenizer = network.tokenizer
        self._network = network
        self._dtype = next(network.module.parameters()).dtype
        self._compiled: CompiledTowers | None = None
        self._replayed: dict[str, ReplayedBatches] = {}

    def encode_images(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Normalised float images → embeddings [B, dim], not scaled."""
        from dr_pipeline.networks.network import embed_images

        images_BCHW = images_BCHW.to(self._dtype)
        if self._compiled:
            return self._compiled.embed_images(images_BCHW).float()
        if self._replayed:
            return self._replayed["images"](images_BCHW).float()
        return embed_images(self._network.module, images_BCHW).float()

    def encode_texts(self, texts: list[str]) -> "torch.Tensor":
        """T texts → embeddings [T, dim], not scaled."""
        return self.encode_tokens(self.tokenizer(texts))

    def encode_tokens(self, tokens_TL: "torch.Tensor") -> "torch.Tensor":
        """Tokens of T texts by `tokenizer`, in host memory → embeddings [T, dim], not scaled."""
        from dr_pipeline.networks.network import cut_texts, embed_texts

        if self._compiled:
            return self._compiled.embed_texts(tokens_TL).float()
        if self._replayed:
            return self._replayed["texts"](cut_texts(self._network.module, tokens_TL, _LENGTHS)).float()
        return embed_texts(self._network.module, tokens_TL).float()

    def to_precision(self, dtype: "torch.dtype") -> None:
        """Round the weights to `dtype` and compute in it from now on."""
        from dr_pipeline.networks.rounding import cast_weights

        cast_weights(self._network.module, dtype)
        self._dtype = dtype

    def to_float8(self) -> None:
        """Compute the linear layers of MLPs and attention in float8, after `to_precision`."""
        from dr_pipeline.networks.float8 import to_float8

        to_float8(self._network.module, lambda: (self.encode_images(self._blank_images(1)), self.encode_texts(["a"])))

    def replay_towers(self, image_batch: int, text_batch: int) -> None:
        """Launch each tower as one CUDA graph, for batches of up to so many images and texts."""
        from dr_pipeline.models.replay import ReplayedBatches
        from dr_pipeline.networks.network import embed_cut_texts, embed_images

        module, device = self._network.module, next(self._network.module.parameters()).device
        self._replayed = {
            "images": ReplayedBatches(partial(embed_images, module), image_batch, device),
            "texts": ReplayedBatches(partial(embed_cut_texts, module), text_batch, device),
        }

    def compile_towers(
        self, image_batch: int, text_batch: int, backend: "str | Callable[..., Any]" = "inductor"
    ) -> None:
        """Compile the towers for batches of up to so many images and texts; they run as before where that fails."""
        from dr_pipeline.networks.compiled import CompiledTowers

        self._compiled = CompiledTowers(self._network, image_batch, text_batch, backend)
        self.encode_images(self._blank_images(image_batch))  # at the start, and not in a shard

    def _blank_images(self, num_images: int) -> "torch.Tensor":
        import torch

        size, device = self._network.image.image_size, next(self._network.module.parameters()).device
        return torch.zeros(num_images, 3, size, size, device=device)
