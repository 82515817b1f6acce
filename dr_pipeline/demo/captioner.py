"""The demo's captioner as a job uses it; also an example of a captioner whose architecture open_clip does not have."""

from typing import Any

import torch

from dr_pipeline.demo.evaluate import build
from dr_pipeline.models.coca import CocaCaptioner, count_captioning
from dr_pipeline.models.protocol import ImageSpec
from dr_pipeline.networks.cost import Cost
from dr_pipeline.networks.files import resource
from dr_pipeline.networks.weights import load_weights


class SceneCaptioner(CocaCaptioner):
    """A ConvCoCa: `model` is its JSON {"model_cfg", "preprocess_cfg"}, `weights` its safetensors file."""

    def __init__(self, device: torch.device, model: str, weights: str):
        module, preprocess, self._tokenizer = build(resource(model))
        load_weights(module, resource(weights))
        self._model = module.to(device).eval().requires_grad_(False)
        self.spec = ImageSpec(preprocess.size, _triple(preprocess.mean), _triple(preprocess.std))

    @staticmethod
    def cost(model: str, weights: str, **_: Any) -> Cost:
        """The architecture's cost."""
        with torch.device("meta"):
            module = build(resource(model))[0]
        return count_captioning(module, module.text.context_length)


def _triple(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue
