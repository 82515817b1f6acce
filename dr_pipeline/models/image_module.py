"""A teacher of images that is one torch module: what the classes for timm, torchvision and transformers share.

Shapes: B images, C = 3 channels, H = W pixels, D = `spec.dim` columns.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from dr_pipeline.networks.cost import Cost
    from dr_pipeline.networks.images import ImageSpec


class ImageModule:
    """A module of images → [B, D], as a teacher. Raises ModelError where it gives anything else."""

    def __init__(self, module: "torch.nn.Module", image: "ImageSpec", device: "torch.device", name: str):
        """The module is moved to the device; it is called `name` in errors."""
        import torch

        from dr_pipeline.errors import ModelError
        from dr_pipeline.models.protocol import TeacherSpec
        from dr_pipeline.networks.files import first_line

        self._module = module.to(device).eval().requires_grad_(False)
        self._device = device
        self._embed: Callable[[torch.Tensor], torch.Tensor] = self._forward
        self._dtype = next(module.parameters()).dtype
        size = image.image_size
        with torch.inference_mode():
            try:
                output: object = self._forward(torch.zeros(1, 3, size, size, device=device))
            except Exception as error:
                raise ModelError(f"model {name} fails on an image of {size} px: {first_line(error)}") from error
        if not isinstance(output, torch.Tensor) or output.ndim != 2:
            gives = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise ModelError(
                f"model {name} gives {gives} for an image, but a teacher needs one row of numbers: [1, dim]"
            )
        self.spec = TeacherSpec(dim=output.shape[1], image_size=size, mean=image.mean, std=image.std)

    def encode_images(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Normalised float images → the module's output in float32 [B, D]."""
        return self._embed(images_BCHW.to(self._dtype)).float()

    def to_precision(self, dtype: "torch.dtype") -> None:
        """Round the weights to `dtype` and compute in it from now on."""
        from dr_pipeline.networks.rounding import cast_weights

        cast_weights(self._module, dtype)
        self._dtype = dtype

    def replay_towers(self, image_batch: int, text_batch: int) -> None:
        """Launch the module as one CUDA graph, for batches of up to so many images."""
        from dr_pipeline.models.replay import ReplayedBatches

        self._embed = ReplayedBatches(self._forward, image_batch, self._device)

    def _forward(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        """The module's rows of images in its precision. A subclass may take them from another place of its output."""
        rows_BD: torch.Tensor = self._module(images_BCHW)
        return rows_BD


class ClassifierModule(ImageModule):
    """A module of images → a logit a class, as a teacher of the classes' probabilities."""

    def __init__(
        self, module: "torch.nn.Module", image: "ImageSpec", device: "torch.device", name: str, temperature: float
    ):
        """`temperature` divides the logits. Raises ConfigError where it is not positive."""
        from dataclasses import replace

        check_temperature(temperature)
        super().__init__(module, image, device, name)
        self.spec = replace(self.spec, output="probabilities")
        self._temperature = temperature

    def encode_images(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Normalised float images → probabilities of the classes in float32 [B, D]."""
        return (super().encode_images(images_BCHW) / self._temperature).softmax(dim=1)


def check_temperature(temperature: float) -> None:
    """Raise ConfigError unless a classifier's logits can be divided by it."""
    from dr_pipeline.errors import ConfigError

    if not temperature > 0:
        raise ConfigError(f"options.temperature is {temperature}: it must be more than 0")


def image_module_cost(
    name: str, module: "torch.nn.Module", embed: "Callable[[torch.Tensor], torch.Tensor]", image_size: int
) -> "Cost | None":
    """The cost of a module on the meta device with which `embed` makes rows of images; None where it is not known.

    Raises ModelError.
    """
    from dr_pipeline.networks.counting import cost_or_none, count_images

    return cost_or_none(name, lambda: count_images(module, embed, image_size))
