"""Vision backbones of transformers (DINOv2, DINOv3, ViT, ConvNeXt, a dual encoder's image tower) as teachers.

Shapes: B images, L tokens, W columns of a token, C = 3 channels, H = W pixels.
"""

import inspect
from typing import TYPE_CHECKING, Any, Literal

from dr_pipeline.models.image_module import ImageModule, image_module_cost

if TYPE_CHECKING:
    import torch

    from dr_pipeline.networks.cost import Cost

Pooling = Literal["pooler", "cls", "mean"]


class TransformersBackbone(ImageModule):
    """A teacher's card: `use: dr_pipeline.models.transformers_backbone:TransformersBackbone`.

    `model`: as for `TransformersTeacher`; of a dual encoder the image tower is taken, without its projection.
    `pooling`: `pooler` takes what the model itself makes of an image, `cls` the first token, `mean` the average of the
    tokens that stand for patches. `image_size`: default the image processor's.
    """

    packages = ("transformers",)

    @staticmethod
    def cost(model: str, pooling: Pooling = "pooler", image_size: int | None = None) -> "Cost | None":
        """The cost of the model; None where its operations cannot be counted. Raises as `build_without_weights`."""
        from transformers import AutoModel

        from dr_pipeline.networks.pretrained import build_without_weights

        tower: Any = build_without_weights(AutoModel, model)
        tower = getattr(tower, "vision_model", tower)
        size = image_size or getattr(tower.config, "image_size", None)
        if size is None:  # the processor says, and it is made where the model is
            return None
        return image_module_cost(model, tower, lambda images_BCHW: _embed(tower, images_BCHW, pooling), size)

    def __init__(self, device: "torch.device", model: str, pooling: Pooling = "pooler", image_size: int | None = None):
        from dataclasses import replace

        from transformers import AutoModel

        from dr_pipeline.errors import ConfigError
        from dr_pipeline.networks.pretrained import image_spec, load_module

        if pooling not in ("pooler", "cls", "mean"):
            raise ConfigError(f"options.pooling is {pooling}: choose pooler, cls or mean")
        unused = () if pooling == "pooler" else ("pooler.",)
        tower, image = load_module(AutoModel, model, unused), image_spec(model)
        tower = getattr(tower, "vision_model", tower)  # a tower of texts leaves the memory here
        self._pooling: Pooling = pooling
        super().__init__(tower, replace(image, image_size=image_size or image.image_size), device, model)

    def _forward(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        return _embed(self._module, images_BCHW, self._pooling)


def _embed(tower: Any, images_BCHW: "torch.Tensor", pooling: Pooling) -> "torch.Tensor":
    """The tower's rows of images [B, W]. Raises ModelError where it has no such pooling."""
    from dr_pipeline.errors import ModelError

    takes = inspect.signature(tower.forward).parameters
    resized = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
    output = tower(pixel_values=images_BCHW, **resized)
    tokens = output.last_hidden_state
    if pooling == "pooler":
        if getattr(output, "pooler_output", None) is None:
            raise ModelError(f"{type(tower).__name__} has no pooler: set options.pooling to cls or mean")
        return output.pooler_output.flatten(1)
    if tokens.ndim == 4:  # a map of features, whose every place is a patch
        if pooling == "cls":
            raise ModelError(f"{type(tower).__name__} has no class token: set options.pooling to pooler or mean")
        return tokens.mean(dim=(2, 3))
    if pooling == "cls":
        return tokens[:, 0]
    side = getattr(tower.config, "patch_size", None) or 1
    patches = (images_BCHW.shape[2] // side) * (images_BCHW.shape[3] // side)
    return tokens[:, -patches:].mean(dim=1)  # class and register tokens come before them
