"""The demo's captioner: open_clip's CoCa with a convolutional image tower, which open_clip does not have.

A ViT has to see more images than half an hour of two cores can show it before it tells shapes apart; a ResNet has not.
"""

import json
from typing import Any

import torch
from open_clip.coca_model import CoCa
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from dr_pipeline.demo.tokenizer import WordTokenizer
from dr_pipeline.models.coca import CocaCaptioner, count_captioning
from dr_pipeline.models.coca_sampler import Samplers
from dr_pipeline.models.protocol import ImageSpec
from dr_pipeline.networks.cost import Cost
from dr_pipeline.networks.files import resource
from dr_pipeline.networks.weights import load_weights


class ConvTower(nn.Module):
    """A CLIP teacher's ResNet; its last feature map but one gives the tokens that CoCa's decoder looks at."""

    def __init__(self, embed_dim: int, token_width: int, image_size: int, layers: list[int], width: int):
        super().__init__()
        self.trunk = ModifiedResNet(layers, embed_dim, heads=width // 2, image_size=image_size, width=width)
        self.project = nn.Linear(width * 16, token_width)
        self.positions = nn.Parameter(0.02 * torch.randn((image_size // 16) ** 2, token_width))
        self.image_size = image_size

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images → embeddings [B, embed_dim] and tokens [B, (image_size / 16)², token_width]."""
        trunk = self.trunk
        features_BCHW = trunk.layer3(trunk.layer2(trunk.layer1(trunk.stem(images_BCHW))))
        tokens_BSW = self.project(features_BCHW.flatten(2).transpose(1, 2)) + self.positions
        return trunk.attnpool(trunk.layer4(features_BCHW)), tokens_BSW


class ConvCoCa(CoCa):
    """CoCa of `text_cfg` and `multimodal_cfg` that sees through a ConvTower of `conv_cfg`."""

    def __init__(
        self, embed_dim: int, conv_cfg: dict[str, Any], text_cfg: dict[str, Any], multimodal_cfg: dict[str, Any]
    ):
        # CoCa's constructor insists on a tower of its own: the smallest, to be replaced at once.
        smallest = {"image_size": 16, "patch_size": 16, "layers": 1, "width": 64}
        super().__init__(embed_dim, multimodal_cfg, text_cfg, smallest)
        self.visual = ConvTower(embed_dim, multimodal_cfg["width"], **conv_cfg)
        # It leaves the decoder's output projection as uninitialised memory.
        projection = self.text_decoder.text_projection
        nn.init.normal_(projection, std=projection.shape[0] ** -0.5)


class SceneCaptioner(CocaCaptioner):
    """A ConvCoCa as a job uses it.

    `model` is its JSON {"model_cfg", "preprocess_cfg"}, `weights` its safetensors file.
    """

    def __init__(self, device: torch.device, model: str, weights: str):
        config = json.loads(resource(model).read_text(encoding="utf-8"))
        module = ConvCoCa(**config["model_cfg"])
        load_weights(module, resource(weights))
        self._model = module.to(device).eval().requires_grad_(False)
        self._tokenizer = WordTokenizer(config["model_cfg"]["text_cfg"]["context_length"])
        self._samplers = Samplers()
        images = config["preprocess_cfg"]
        self.spec = ImageSpec(images["size"], tuple(images["mean"]), tuple(images["std"]))

    @staticmethod
    def cost(model: str, weights: str, **_: Any) -> Cost:
        """The architecture's cost."""
        architecture = json.loads(resource(model).read_text(encoding="utf-8"))["model_cfg"]
        with torch.device("meta"):
            module = ConvCoCa(**architecture)
        return count_captioning(module, architecture["text_cfg"]["context_length"])
