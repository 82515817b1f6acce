"""The rewriter of chat models of transformers that see no images.

Shapes: L tokens of a prompt, V tokens in the vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dr_pipeline.errors import ModelError
from dr_pipeline.models.chat import end_tokens, without_signs

if TYPE_CHECKING:
    import torch

    from dr_pipeline.config.cards import Sampling
    from dr_pipeline.models.prefilled import Prefilled
    from dr_pipeline.views.seeding import Stream

_PROBE = "Say it in other words: a photo of a dog"


class LanguageModel:
    """A Rewriter's card: `use: dr_pipeline.models.language_model:LanguageModel`.

    `model`: a folder, package://module/folder or hf-hub:org/repo[@revision] with a causal model and its tokenizer,
    which has a chat template.
    """

    packages = ("transformers",)

    def __init__(self, device: "torch.device", model: str, weights_dtype: "torch.dtype | None" = None):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from dr_pipeline.networks.pretrained import load_module, read_pretrained

        module = load_module(AutoModelForCausalLM, model, weights_dtype=weights_dtype)
        self._model = module.to(device).eval().requires_grad_(False)
        self._tokenizer = read_pretrained(AutoTokenizer, model)
        if not getattr(self._tokenizer, "chat_template", None):
            raise ModelError(f"model {model} has no chat template, so nothing can be asked: name an instructed model")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def rewrite(
        self,
        texts: Sequence[str],
        prompts: Sequence[str],
        streams: "Sequence[Sequence[Stream]]",
        sampling: "Sampling",
    ) -> list[list[str]]:
        """What the prompts ask for → len(streams[t]) texts for prompt t, the same number for every t.

        Raises ModelError where the model's context has no room for words.
        """
        from dr_pipeline.models.prefilled import write

        prefilled = self._prefill(prompts, sampling.max_tokens)
        ends = end_tokens(self._tokenizer, self._conversation)
        return write(prefilled, streams, sampling, ends, self._tokenizer)

    def to_precision(self, dtype: "torch.dtype") -> None:
        """Round the weights to `dtype` and compute in it from now on.

        Raises ModelError where the logits of a first word are then farther from float32's than rounding explains.
        """
        from dr_pipeline.models.prefilled import LARGEST_ROUNDING
        from dr_pipeline.networks.rounding import cast_and_compare

        cast_and_compare(self._model, dtype, lambda: self._prefill([_PROBE], max_tokens=2).logits_BV, LARGEST_ROUNDING)

    def _prefill(self, prompts: Sequence[str], max_tokens: int) -> "Prefilled":
        """The model that has seen the prompts; shorter ones are padded on the left."""
        from dr_pipeline.models.prefilled import prefill

        inputs = self._tokenizer(
            [self._conversation(prompt) for prompt in prompts],
            padding=True,
            padding_side="left",
            add_special_tokens=False,  # the template has them
            return_token_type_ids=False,
            return_tensors="pt",
        )
        return prefill(self._model, inputs.to(self._model.device), max_tokens)

    def _conversation(self, prompt: str, answer: str | None = None) -> str:
        """A prompt, and the beginning of the answer, or the whole of it, as the model's template has them."""
        messages = [{"role": "user", "content": without_signs(prompt, self._tokenizer)}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=answer is None, tokenize=False)
