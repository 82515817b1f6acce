"""Models in ONNX files as teachers, by onnxruntime (`pip install 'dr-pipeline[onnx]'`).

A file has one input of images [B, 3, H, W], normalised by `mean` and `std`, or one of tokens [B, L], with or without an
attention mask; its output has a row each. A file's first axis may have any length, or one.

Shapes: B images, T texts, L tokens, C = 3 channels, H = W pixels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dr_pipeline.config.strict import triple
from dr_pipeline.models.image_module import check_temperature

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class OnnxImageTeacher:
    """A teacher of images alone: `use: dr_pipeline.models.onnx:OnnxImageTeacher`.

    `image_model`: the file. `image_size`: where the file takes images of any. `image_output`: its output's name, where
    several have rows. `providers`: onnxruntime's, default those of the device.
    """

    packages = ("onnxruntime",)

    def __init__(
        self,
        device: "torch.device",
        image_model: str,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int | None = None,
        image_output: str | None = None,
        providers: Sequence[str] | None = None,
    ):
        import torch

        from dr_pipeline.errors import ConfigError, ModelError
        from dr_pipeline.models.onnx_session import OnnxSession
        from dr_pipeline.models.protocol import TeacherSpec

        self._images = OnnxSession(image_model, device, image_output, providers)
        self._input = self._images.only_input(rank=4)
        shape = self._images.inputs[self._input]
        sides = {side for side in shape[2:] if isinstance(side, int)}
        if len(sides) > 1:
            raise ModelError(f"{image_model} takes images of {shape[2]}×{shape[3]}; only square views are made")
        fixed = sides.pop() if sides else None
        if fixed is not None and image_size not in (None, fixed):
            raise ConfigError(f"options.image_size is {image_size}, but {image_model} takes images of {fixed} px")
        size = fixed or image_size
        if size is None:
            raise ConfigError(f"options.image_size: {image_model} takes images of any size: say how many pixels")
        dim = self._images.run({self._input: torch.zeros(1, 3, size, size, device=device)}).shape[1]
        self.spec = TeacherSpec(dim=dim, image_size=size, mean=triple(mean), std=triple(std))

    def encode_images(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Normalised float images → the file's output in float32 [B, dim]."""
        return self._images.run({self._input: images_BCHW})


class OnnxClassifier(OnnxImageTeacher):
    """A teacher of classes' probabilities: `use: dr_pipeline.models.onnx:OnnxClassifier`.

    The file gives a logit a class, which `temperature` divides. Other options are those of `OnnxImageTeacher`.
    """

    def __init__(
        self,
        device: "torch.device",
        image_model: str,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int | None = None,
        image_output: str | None = None,
        temperature: float = 1.0,
        providers: Sequence[str] | None = None,
    ):
        from dataclasses import replace

        check_temperature(temperature)
        super().__init__(device, image_model, mean, std, image_size, image_output, providers)
        self._temperature = temperature
        self.spec = replace(self.spec, output="probabilities")

    def encode_images(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Normalised float images → probabilities of the classes in float32 [B, dim]."""
        return (super().encode_images(images_BCHW) / self._temperature).softmax(dim=1)


class OnnxTeacher(OnnxImageTeacher):
    """A teacher of images and texts: `use: dr_pipeline.models.onnx:OnnxTeacher`.

    `text_model`: the file of the text tower. Its tokens come from `tokenizer`, a module:Class called with
    context_length, or from `tokenizer_of`, a model of transformers, as for `TransformersTeacher`. `context_length`: how
    many of them, where the file takes any number. Other options are those of `OnnxImageTeacher`.
    """

    def __init__(
        self,
        device: "torch.device",
        image_model: str,
        text_model: str,
        mean: Sequence[float],
        std: Sequence[float],
        tokenizer: str | None = None,
        tokenizer_of: str | None = None,
        context_length: int | None = None,
        image_size: int | None = None,
        image_output: str | None = None,
        text_output: str | None = None,
        providers: Sequence[str] | None = None,
    ):
        from dr_pipeline.config.plugins import load_class
        from dr_pipeline.errors import ConfigError
        from dr_pipeline.models.onnx_session import OnnxSession
        from dr_pipeline.models.transformers import make_tokens

        super().__init__(device, image_model, mean, std, image_size, image_output, providers)
        self._device = device
        self._texts = OnnxSession(text_model, device, text_output, providers)
        fixed = next((shape[1] for shape in self._texts.inputs.values() if isinstance(shape[1], int)), None)
        length = context_length or fixed
        if length is None:
            raise ConfigError(f"options.context_length: {text_model} takes texts of any length: say how many tokens")
        if (tokenizer is None) == (tokenizer_of is None):
            raise ConfigError("options.tokenizer or options.tokenizer_of: set one of them")
        self.tokenizer: Callable[[list[str]], torch.Tensor]
        if tokenizer is not None:
            self.tokenizer = load_class(tokenizer)(context_length=length)
        else:
            self.tokenizer = make_tokens(str(tokenizer_of), length, fills=fixed is not None, lowercase=False)

    def encode_texts(self, texts: list[str]) -> "torch.Tensor":
        """T texts → embeddings [T, dim], not scaled."""
        return self.encode_tokens(self.tokenizer(texts))

    def encode_tokens(self, tokens_TL: "torch.Tensor") -> "torch.Tensor":
        """Tokens of T texts by `tokenizer`, in host memory → embeddings [T, dim], not scaled."""
        from dr_pipeline.models.transformers import MASKED, MaskedTokens

        tokens_TL = tokens_TL.to(self._device)
        is_seen_TL = tokens_TL != MASKED
        if isinstance(self.tokenizer, MaskedTokens):
            tokens_TL = tokens_TL.where(is_seen_TL, self.tokenizer.pad_token)
        inputs = dict.fromkeys(self._texts.inputs, tokens_TL)
        for name in inputs:  # as transformers names them
            if name == "attention_mask":
                inputs[name] = is_seen_TL
            if name == "token_type_ids":
                inputs[name] = is_seen_TL.new_zeros(is_seen_TL.shape)
        return self._texts.run(inputs)
