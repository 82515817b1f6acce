"""What the job takes without its models."""

import torch

from dr_pipeline.models.protocol import TeacherSpec


class Weightless:
    """A teacher that costs nothing: what is left is all but the models."""

    def __init__(self, device: torch.device, image_size: int):
        self.spec = TeacherSpec(image_size=image_size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=512)

    def encode_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images_BCHW), 512)

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.ones(len(texts), 512)
