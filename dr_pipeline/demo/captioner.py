"""The demo's captioner as a job uses it; also an example of a captioner whose architecture open_clip does not have."""

import json
from typing import Any

import torch

from dr_pipeline.demo.conv_coca import ConvCoCa
from dr_pipeline.demo.tokenizer import WordTokenizer
from dr_pipeline.models.coca import CocaCaptioner, count_captioning
from dr_pipeline.models.coca_sampler import Samplers
from dr_pipeline.models.protocol import ImageSpec
from dr_pipeline.networks.cost import Cost
from dr_pipeline.networks.files import resource
from dr_pipeline.networks.weights import load_weights


class SceneCaptioner(CocaCaptioner):
    """A ConvCoCa: `model` is its JSON {"model_cfg", "preprocess_cfg"}, `weights` its safetensors file."""

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
