"""The captioner of CoCa models of open_clip."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dr_pipeline.dataset.caption_faults import as_caption
from dr_pipeline.errors import ModelError

if TYPE_CHECKING:
    import torch
    from open_clip.coca_model import CoCa

    from dr_pipeline.config.cards import Sampling
    from dr_pipeline.networks.cost import Cost
    from dr_pipeline.views.seeding import Stream


_ROUNDING = 0.01
"""How far rounded weights may take logits, as 1 - cosine (measured: 0.0002)."""


class CocaCaptioner:
    """A Captioner (see protocol.py) with a CoCa of open_clip; coca_generate.py has the sampling methods."""

    @staticmethod
    def cost(model: str, weights: str, **options: Any) -> "Cost | None":
        """The cost of writing captions. Raises ModelError as `network_cost`, and where the model is no causal CoCa."""
        from dr_pipeline.networks.counting import build_without_weights, count_or_none

        architecture, module = build_without_weights(model, weights, **options)
        _require_causal_coca(module, model)
        return count_or_none(count_captioning, module, architecture)

    def __init__(
        self,
        device: "torch.device",
        model: str,
        weights: str,
        tokenizer: str | None = None,
        context_length: int | None = None,
    ):
        from dr_pipeline.models.coca_sampler import Samplers
        from dr_pipeline.models.operations import operations_of
        from dr_pipeline.networks.network import load_network

        network = load_network(model, weights, device, tokenizer=tokenizer, context_length=context_length)
        _require_causal_coca(network.module, model)
        needed = ("decode", "sot_token_id", "eot_token_id", "all_special_ids", "vocab_size")
        missing = [attribute for attribute in needed if not hasattr(network.tokenizer, attribute)]
        if missing:
            raise ModelError(
                f"captioner {model!r}: its tokenizer, a {type(network.tokenizer).__name__}, lacks {', '.join(missing)}"
                ": set options.tokenizer to the module:Class of one that turns tokens back into text"
            )
        self.spec = network.image
        self._model: Any = network.module
        self._tokenizer: Any = network.tokenizer
        self._samplers = Samplers(operations=operations_of(device))

    def caption(
        self, images_BCHW: "torch.Tensor", streams: "Sequence[Sequence[Stream]]", sampling: "Sampling"
    ) -> list[list[str]]:
        """Normalised float images of `spec.image_size` → len(streams[b]) captions of image b, the same for every b.

        A caption that reached the limit of tokens before its end is a CutCaption.
        """
        from dr_pipeline.models.coca_generate import generate
        from dr_pipeline.networks.tokenizer import spelling

        # A model may have a larger vocabulary than its tokenizer; an id that spells nothing is no word.
        spell, start, end = spelling(self._tokenizer), self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        words_BNT = generate(self._model, images_BCHW, streams, sampling, start, end, self._samplers)
        return [[as_caption(words, end, spell) for words in captions] for captions in words_BNT.tolist()]

    def to_precision(self, dtype: "torch.dtype") -> None:
        """Round the weights to `dtype` and compute in it from now on.

        Raises ModelError where the logits of a first caption are then farther from float32's than rounding explains.
        """
        from dr_pipeline.networks.rounding import cast_and_compare

        cast_and_compare(self._model, dtype, self._logits_of_a_caption, _ROUNDING)

    def _logits_of_a_caption(self) -> "torch.Tensor":
        """Logits [L, V] of the words of a caption of a grey image."""
        import torch

        device, size = next(self._model.parameters()).device, self.spec.image_size
        dtype = self._model.text_decoder.text_projection.dtype
        grey_1CHW = torch.zeros(1, 3, size, size, dtype=dtype, device=device)
        tokens_1L = self._tokenizer(["a photo of a dog"]).to(device)
        return self._model(grey_1CHW, tokens_1L)["logits"][0]


def count_captioning(module: "CoCa", context_length: int) -> "Cost":
    """The cost of writing captions with a CoCa on the meta device.

    Each token before a token adds the same to its cost, so that the costs of the first two tell that of any.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dr_pipeline.models.coca_decoder import CocaDecoder
    from dr_pipeline.networks.counting import cost_of, image_size, without_values

    with without_values(module):
        image_1CHW = torch.zeros(1, 3, *image_size(module), device="meta")
        decoder = CocaDecoder(module, num_captions=1, num_positions=context_length)
        with FlopCounterMode(display=False) as image:
            decoder.begin(image_1CHW)
        steps = [FlopCounterMode(display=False) for _ in range(2)]
        for step in steps:
            with step:
                decoder.step(torch.zeros(1, 1, dtype=torch.int64, device="meta"))
    first, second = (step.get_total_flops() for step in steps)
    halfway = first + (context_length // 2 - 1) * (second - first)
    return cost_of(module, image_flops=image.get_total_flops(), token_flops=halfway)


def _require_causal_coca(module: "torch.nn.Module", name: str) -> None:
    from open_clip.coca_model import CoCa
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer

    if not isinstance(module, CoCa):
        raise ModelError(
            f"captioner {name!r} is a {type(module).__name__}, which has no text decoder: "
            "name a CoCa model, such as coca_ViT-L-14, or a captioner class of your own"
        )
    text = module.text
    if not isinstance(text, TextTransformer) or text.attn_mask is None:
        raise ModelError(
            f"captioner {name!r} has a text tower that sees later tokens ({type(text).__name__}), so it cannot write "
            "a caption word by word: name a CoCa model with a causal text tower"
        )
    blocks = {type(block) for block in text.transformer.resblocks} - {ResidualAttentionBlock}
    if blocks:
        raise ModelError(
            f"captioner {name!r} has text blocks of type {blocks.pop().__name__}; "
            "caching is written for ResidualAttentionBlock only: leave block_type at its default"
        )
