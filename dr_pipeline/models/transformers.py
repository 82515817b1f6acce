"""Dual encoders of transformers (CLIP, SigLIP, ALIGN, MetaCLIP 2, …) as teachers.

Shapes: B images, T texts, L tokens, C = 3 channels, H = W pixels, P pixels of a patch's side, N patches of an image.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from dr_pipeline.models.replay import ReplayedBatches
    from dr_pipeline.networks.cost import Cost

_LENGTHS = 16
"""Texts are cut to multiples of so many tokens."""
_FILLED = ("siglip", "siglip2")
"""Models whose texts are padded to the whole context, as they were trained."""
MASKED = -1
"""Stands for a token that the attention mask of its text hides."""


class TransformersTeacher:
    """A teacher's card: `use: dr_pipeline.models.transformers:TransformersTeacher`.

    `model`: a folder, package://module/folder or hf-hub:org/repo[@revision] with a model that has `get_image_features`
    and `get_text_features`, its tokenizer and its image processor.
    `context_length`: texts are cut to that many tokens; default what model and tokenizer take. `lowercase`: texts are
    put in small letters, as SigLIP 2 was trained.
    """

    packages = ("transformers",)

    @staticmethod
    def cost(model: str, context_length: int | None = None, lowercase: bool = False) -> "Cost | None":
        """The cost of the model; None where its operations cannot be counted. Raises as `build_without_weights`."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode
        from transformers import AutoModel

        from dr_pipeline.networks.cost import Cost
        from dr_pipeline.networks.counting import cost_or_none, without_values
        from dr_pipeline.networks.pretrained import build_without_weights

        module = build_without_weights(AutoModel, model)
        vision, text = module.config.vision_config, module.config.text_config
        size = (
            vision.image_size if hasattr(vision, "image_size") else round(vision.num_patches**0.5) * vision.patch_size
        )

        def count() -> Cost:
            with without_values(module):
                with FlopCounterMode(display=False) as image:
                    images_1CHW = torch.zeros(1, 3, size, size, device="meta")
                    module.get_image_features(**_image_inputs(module.config, images_1CHW))
                with FlopCounterMode(display=False) as texts:
                    tokens_1L = torch.zeros(1, text.max_position_embeddings, dtype=torch.int64, device="meta")
                    features_1D = _pooled(module.get_text_features(input_ids=tokens_1L))
            parameters = sum(parameter.numel() for parameter in module.parameters())
            flops = image.get_total_flops(), texts.get_total_flops()
            return Cost(parameters, *flops, image_size=size, dim=features_1D.shape[1])

        return cost_or_none(model, count)

    def __init__(
        self,
        device: "torch.device",
        model: str,
        context_length: int | None = None,
        lowercase: bool = False,
    ):
        from transformers import AutoModel

        from dr_pipeline.errors import ModelError
        from dr_pipeline.models.protocol import TeacherSpec
        from dr_pipeline.networks.pretrained import image_spec, load_module

        module = load_module(AutoModel, model)
        for method in ("get_image_features", "get_text_features"):
            if not hasattr(module, method):
                raise ModelError(f"model {model}: {type(module).__name__} has no {method}: it is no dual encoder")
        self._module = module.to(device).eval().requires_grad_(False)
        self._device = device
        self._dtype = module.dtype
        self._replayed: dict[str, ReplayedBatches] = {}
        length, fills = _context_length(module.config, context_length, model), module.config.model_type in _FILLED
        self.tokenizer = make_tokens(model, length, fills, lowercase)
        image = image_spec(model)
        self.spec = TeacherSpec(
            dim=self.encode_texts([""]).shape[1], image_size=image.image_size, mean=image.mean, std=image.std
        )

    def encode_images(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Normalised float images → embeddings [B, dim], not scaled."""
        embed = self._replayed.get("images", self._embed_images)
        return embed(images_BCHW.to(self._dtype)).float()

    def encode_texts(self, texts: list[str]) -> "torch.Tensor":
        """T texts → embeddings [T, dim], not scaled."""
        return self.encode_tokens(self.tokenizer(texts))

    def encode_tokens(self, tokens_TL: "torch.Tensor") -> "torch.Tensor":
        """Tokens of T texts by `tokenizer`, in host memory → embeddings [T, dim], not scaled."""
        embed = self._replayed.get("texts", self._embed_tokens)
        length = tokens_TL.shape[1]
        if not self.tokenizer.fills:  # columns on the right that are masked in all texts go, but for a multiple of 16
            needed = int((tokens_TL != MASKED).any(dim=0).nonzero().max()) + 1
            length = -(-needed // _LENGTHS) * _LENGTHS
        # The whole is copied: only memory in one piece comes without being waited for.
        return embed(tokens_TL.to(self._device, non_blocking=True)[:, :length]).float()

    def to_precision(self, dtype: "torch.dtype") -> None:
        """Round the weights to `dtype` and compute in it from now on."""
        from dr_pipeline.networks.rounding import cast_weights

        cast_weights(self._module, dtype)
        self._dtype = dtype

    def replay_towers(self, image_batch: int, text_batch: int) -> None:
        """Launch each tower as one CUDA graph, for batches of up to so many images and texts."""
        from dr_pipeline.models.replay import ReplayedBatches

        self._replayed = {
            "images": ReplayedBatches(self._embed_images, image_batch, self._device),
            "texts": ReplayedBatches(self._embed_tokens, text_batch, self._device),
        }

    def _embed_images(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        return _pooled(self._module.get_image_features(**_image_inputs(self._module.config, images_BCHW)))

    def _embed_tokens(self, tokens_TL: "torch.Tensor") -> "torch.Tensor":
        is_seen_TL = tokens_TL != MASKED
        inputs = {"input_ids": tokens_TL.where(is_seen_TL, self.tokenizer.pad_token)}
        if self.tokenizer.masks:
            inputs["attention_mask"] = is_seen_TL.long()
        return _pooled(self._module.get_text_features(**inputs))


class MaskedTokens:
    """A tokenizer of transformers: T texts → tokens [T, L], -1 where the model's attention mask is 0."""

    def __init__(self, tokenizer: Any, context_length: int, fills: bool, lowercase: bool):
        """`fills`: every text is padded to the whole context, and not to the longest text."""
        self.masks = "attention_mask" in tokenizer.model_input_names
        self.pad_token: int = tokenizer.pad_token_id or 0
        self.context_length = context_length
        self._tokenizer = tokenizer
        self.fills = fills
        self._lowercase = lowercase

    def __call__(self, texts: list[str]) -> "torch.Tensor":
        """Tokens of the texts, in host memory."""
        if self._lowercase:
            texts = [text.lower() for text in texts]
        padding = "max_length" if self.fills else "longest"
        encoded = self._tokenizer(
            texts, padding=padding, truncation=True, max_length=self.context_length, return_tensors="pt"
        )
        tokens_TL = encoded["input_ids"]
        return tokens_TL.masked_fill(encoded["attention_mask"] == 0, MASKED) if self.masks else tokens_TL


@lru_cache(maxsize=16)
def make_tokens(model: str, context_length: int, fills: bool, lowercase: bool) -> MaskedTokens:
    """A model's tokens, the same object for the same model, so that its texts become tokens but once."""
    from transformers import AutoTokenizer

    from dr_pipeline.errors import ModelError
    from dr_pipeline.networks.pretrained import read_pretrained

    tokenizer = read_pretrained(AutoTokenizer, model)
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # what the library makes where the files are missing
        raise ModelError(f"model {model}: its tokenizer knows no words: its files, such as tokenizer.json, are missing")
    fills = fills or "attention_mask" not in tokenizer.model_input_names
    if not fills:
        tokenizer.padding_side = "right"  # what lies on the right can be cut off
    return MaskedTokens(tokenizer, min(context_length, tokenizer.model_max_length), fills, lowercase)


def _context_length(config: Any, wanted: int | None, model: str) -> int:
    """The tokens of a text that the tower takes, or fewer where so many are wanted. Raises ModelError."""
    from dr_pipeline.errors import ModelError

    limit = config.text_config.max_position_embeddings
    if wanted is not None and wanted > limit:
        raise ModelError(f"model {model}: context_length is {wanted}; its text tower takes {limit}: set that or less")
    return wanted or limit


def _image_inputs(config: Any, images_BCHW: "torch.Tensor") -> "dict[str, torch.Tensor]":
    """What `get_image_features` takes: pixels, or of a SigLIP 2 with NaFlex patches and their grid."""
    import torch

    if config.model_type != "siglip2":
        return {"pixel_values": images_BCHW}
    side = config.vision_config.patch_size
    patches_BCHPWP = images_BCHW.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    patches_BNV = patches_BCHPWP.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    shape_2 = torch.tensor([images_BCHW.shape[2] // side, images_BCHW.shape[3] // side])
    # Without a mask, which would hide nothing: the library asks the device whether it does.
    return {"pixel_values": patches_BNV, "spatial_shapes": shape_2.expand(len(images_BCHW), 2)}


def _pooled(output: Any) -> "torch.Tensor":
    """The embeddings in an output of transformers."""
    return getattr(output, "pooler_output", output)
