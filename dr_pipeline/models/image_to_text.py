"""Captioners of transformers: models that describe an image unasked, and models that are asked in a chat.

Shapes: B images, L tokens of a prompt, V tokens in the vocabulary, C = 3 channels, H = W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dr_pipeline.errors import ModelError
from dr_pipeline.models.chat import end_tokens, without_signs
from dr_pipeline.networks.images import ImageSpec

if TYPE_CHECKING:
    import torch

    from dr_pipeline.config.cards import Sampling
    from dr_pipeline.models.prefilled import Prefilled
    from dr_pipeline.views.seeding import Stream

DEFAULT_PROMPT = "Describe the image in one sentence."
_ANY_SIZE = 448
"""Pixels of a side where a model takes images of any size."""
_PROBES = (256, 384)
"""Pixels of a side of the images by which a model's own size is found."""


class ImageToTextCaptioner:
    """A Captioner with a model of transformers that describes images unasked: BLIP, GIT, an encoder with a decoder.

    `model`: a folder, package://module/folder or hf-hub:org/repo[@revision]. `image_size`: pixels of the square that
    the model's own processor is given; default what it makes of every image, or 448.
    """

    packages = ("transformers",)

    def __init__(
        self,
        device: "torch.device",
        model: str,
        image_size: int | None = None,
        weights_dtype: "torch.dtype | None" = None,
    ):
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

        from dr_pipeline.networks.pretrained import load_module, read_pretrained

        module = load_module(AutoModelForImageTextToText, model, weights_dtype=weights_dtype)
        self._model = module.to(device).eval().requires_grad_(False)
        self._image_processor = read_pretrained(AutoImageProcessor, model)
        self._tokenizer = read_pretrained(AutoTokenizer, model)
        # The processor normalises, so that whatever else it does to an image is right too.
        size = image_size or _size_made_by(self._image_processor) or _ANY_SIZE
        self.spec = ImageSpec(size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        try:
            self._first_logits()
        except Exception as error:  # of the library, which says in many ways that a model wants other inputs
            kinds = f"{type(self._model).__name__} does not take what {type(self).__name__} gives it"
            raise ModelError(f"model {model}: {kinds}: {type(error).__name__}: {error}") from error

    def caption(
        self, images_BCHW: "torch.Tensor", streams: "Sequence[Sequence[Stream]]", sampling: "Sampling"
    ) -> list[list[str]]:
        """Images with values of 0 to 1 → len(streams[b]) captions of image b, the same for every b."""
        return self._decode(self._inputs(images_BCHW), streams, sampling)

    def to_precision(self, dtype: "torch.dtype") -> None:
        """Round the weights to `dtype` and compute in it from now on.

        Raises ModelError where the logits of a first word are then farther from float32's than rounding explains.
        """
        from dr_pipeline.models.prefilled import LARGEST_ROUNDING
        from dr_pipeline.networks.rounding import cast_and_compare

        cast_and_compare(self._model, dtype, self._first_logits, LARGEST_ROUNDING)

    def _inputs(self, images_BCHW: "torch.Tensor") -> Mapping[str, Any]:
        """What the model takes of images."""
        return self._image_processor(images=self._pixels(images_BCHW), return_tensors="pt")

    def _pixels(self, images_BCHW: "torch.Tensor") -> "list[torch.Tensor]":
        """uint8 images [C, H, W], on the device where the processor can work there."""
        import torch

        images_BCHW = (images_BCHW * 255).round().to(torch.uint8)
        works_on_device = getattr(self._image_processor, "backend", "") == "torchvision"
        return list(images_BCHW if works_on_device else images_BCHW.cpu())

    def _prefill(self, inputs: Mapping[str, Any], max_tokens: int) -> "Prefilled":
        import torch

        from dr_pipeline.models.prefilled import prefill

        on_device = {
            name: value.to(self._model.device, self._model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }
        return prefill(self._model, on_device, max_tokens)

    def _decode(
        self, inputs: Mapping[str, Any], streams: "Sequence[Sequence[Stream]]", sampling: "Sampling"
    ) -> list[list[str]]:
        """The captions. Raises ModelError where the model's context has no room for words."""
        from dr_pipeline.models.prefilled import write

        prefilled = self._prefill(inputs, sampling.max_tokens)
        return write(prefilled, streams, sampling, self._end_tokens(), self._tokenizer)

    def _end_tokens(self) -> list[int]:
        """Tokens that end what the model says, beside those that its configuration names."""
        return [] if self._tokenizer.eos_token_id is None else [self._tokenizer.eos_token_id]

    def _first_logits(self) -> "torch.Tensor":
        """Those [1, V] of the first word about a grey image."""
        import torch

        size = self.spec.image_size
        grey_1CHW = torch.full((1, 3, size, size), 0.5, device=self._model.device)
        return self._prefill(self._inputs(grey_1CHW), max_tokens=2).logits_BV


class ChatCaptioner(ImageToTextCaptioner):
    """A PromptedCaptioner with a chat model of transformers that sees: Qwen-VL, LLaVA, all that have a chat template.

    Options as above; `prompt`: what it is asked for where a card has no prompt.
    """

    def __init__(
        self,
        device: "torch.device",
        model: str,
        image_size: int | None = None,
        prompt: str = DEFAULT_PROMPT,
        weights_dtype: "torch.dtype | None" = None,
    ):
        from transformers import AutoProcessor

        from dr_pipeline.models.prefilled import remember_images
        from dr_pipeline.networks.pretrained import read_pretrained

        self._processor = read_pretrained(AutoProcessor, model)
        if not getattr(self._processor, "chat_template", None):
            raise ModelError(f"model {model} has no chat template, so nothing can be asked: use ImageToTextCaptioner")
        if self._processor.tokenizer.pad_token is None:
            self._processor.tokenizer.pad_token = self._processor.tokenizer.eos_token
        self._prompt = prompt
        super().__init__(device, model, image_size, weights_dtype)
        remember_images(self._model)

    def caption_prompted(
        self,
        images_BCHW: "torch.Tensor",
        prompts: Sequence[str],
        streams: "Sequence[Sequence[Stream]]",
        sampling: "Sampling",
    ) -> list[list[str]]:
        """Images with values of 0 to 1, and what is asked of each → len(streams[b]) captions of image b."""
        return self._decode(self._inputs_asking(images_BCHW, prompts), streams, sampling)

    def _inputs(self, images_BCHW: "torch.Tensor") -> Mapping[str, Any]:
        """What the model takes of images, each with its own prompt."""
        return self._inputs_asking(images_BCHW, [self._prompt] * len(images_BCHW))

    def _inputs_asking(self, images_BCHW: "torch.Tensor", prompts: Sequence[str]) -> Mapping[str, Any]:
        """What the model takes of images, each with a prompt; shorter prompts are padded on the left."""
        texts = [self._conversation(prompt) for prompt in prompts]
        start = self._tokenizer.bos_token
        return self._processor(
            text=texts,
            images=[[image_CHW] for image_CHW in self._pixels(images_BCHW)],
            padding=True,
            padding_side="left",
            add_special_tokens=not (start and texts[0].startswith(start)),  # where the template has not begun already
            return_tensors="pt",
        )

    def _conversation(self, prompt: str, answer: str | None = None) -> str:
        """An image, a prompt, and the beginning of the answer, or the whole of it, as the model's template has them."""
        # What stands for an image, or another input, must not come from a prompt either.
        others = (getattr(self._processor, f"{kind}_token", None) or "" for kind in ("image", "video", "audio"))
        prompt = without_signs(prompt, self._tokenizer, others)
        asked = [{"type": "image"}, {"type": "text", "text": prompt}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": asked}]
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return self._processor.apply_chat_template(messages, add_generation_prompt=answer is None, tokenize=False)

    def _end_tokens(self) -> list[int]:
        return end_tokens(self._tokenizer, self._conversation)


def _size_made_by(image_processor: Any) -> int | None:
    """Pixels of the side of the squares that a processor makes of any image; None where it does not."""
    from PIL import Image

    made = [image_processor(Image.new("RGB", (side, side)), return_tensors="pt") for side in _PROBES]
    shapes = {tuple(one["pixel_values"].shape) for one in made}
    shape = shapes.pop()
    return shape[2] if not shapes and len(shape) == 4 and shape[2] == shape[3] else None
