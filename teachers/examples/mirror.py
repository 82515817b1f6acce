"""A teacher of your own in one plain file: CLIP whose image embedding is the mean of an image's and its mirror image's.

`mirror.yaml` beside it is its card. Copy both next to your job file and change what you need.
"""

import json

import torch

from dr_pipeline.models.protocol import TeacherSpec
from dr_pipeline.networks.files import resource


class MirrorClip:
    """`config` and `weights` are options of the card; the pipeline gives `device` and does everything else."""

    def __init__(self, device: torch.device, config: str, weights: str):
        # Heavy imports belong here: the file itself is also read where no model is needed.
        from open_clip.model import CLIP
        from safetensors.torch import load_file

        from dr_pipeline.demo.tokenizer import WordTokenizer

        tree = json.loads(resource(config).read_text())
        self._clip = CLIP(**tree["model_cfg"])
        self._clip.load_state_dict(load_file(resource(weights)))
        self._clip.to(device).eval().requires_grad_(False)
        self._words = WordTokenizer(self._clip.context_length)
        self._device = device
        self.spec = TeacherSpec(
            image_size=self._clip.visual.image_size,
            mean=tuple(tree["preprocess_cfg"]["mean"]),
            std=tuple(tree["preprocess_cfg"]["std"]),
            dim=tree["model_cfg"]["embed_dim"],
        )

    def encode_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Images arrive normalised, of the size in `spec`; the pipeline scales the result to unit length."""
        mirrored_BCHW = images_BCHW.flip(dims=[3])
        return self._clip.encode_image(images_BCHW) + self._clip.encode_image(mirrored_BCHW)

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """Texts arrive as they are: any length, any script, possibly empty."""
        return self._clip.encode_text(self._words(texts).to(self._device))
