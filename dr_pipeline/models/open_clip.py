"""Any model of open_clip (CLIP, SigLIP, CoCa, …) as a teacher."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from dr_pipeline.networks.cost import Cost


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

    def encode_images(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Normalised float images → embeddings [B, dim], not scaled."""
        from dr_pipeline.networks.network import embed_images

        return embed_images(self._network.module, images_BCHW)

    def encode_texts(self, texts: list[str]) -> "torch.Tensor":
        """T texts → embeddings [T, dim], not scaled."""
        return self.encode_tokens(self.tokenizer(texts))

    def encode_tokens(self, tokens_TL: "torch.Tensor") -> "torch.Tensor":
        """Tokens of T texts by `tokenizer`, in host memory → embeddings [T, dim], not scaled."""
        from dr_pipeline.networks.network import embed_texts

        return embed_texts(self._network.module, tokens_TL)
