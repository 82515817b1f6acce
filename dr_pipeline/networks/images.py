"""Images for a network: uint8 pixels are resized and normalised on its device.

Shapes: B images, H and W pixels, C = 3 channels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from dr_pipeline.config.strict import Triple


@dataclass(frozen=True)
class ImageSpec:
    """The images that a model takes: RGB, square, `image_size` pixels, (x / 255 - mean) / std."""

    image_size: int
    mean: Triple
    std: Triple


def prepare(images_BHWC: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """Square uint8 RGB images → float32 images as `spec` says, on the same device."""
    return normalise(resample(images_BHWC, spec.image_size), spec)


def host_tensor(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """The values as a tensor in host memory, which a GPU copies while it computes."""
    if isinstance(values, np.ndarray):  # torch refuses to wrap read-only memory
        values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    return values.pin_memory() if device.type == "cuda" else values  # what makes the copy asynchronous


def resample(images_BHWC: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 BHWC → float32 BCHW of `size` pixels, in 0..255."""
    images = images_BHWC.permute(0, 3, 1, 2).contiguous().float()
    if tuple(images.shape[2:]) == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True).clamp_(0, 255)


def normalise(images_BCHW: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """Values of 0 to 255 → as `spec` says."""
    mean_C11, std_C11 = _constants(spec, images_BCHW.device)
    return (images_BCHW / 255).sub_(mean_C11).div_(std_C11)


@lru_cache  # a copy to a GPU waits until it has done all else
@torch.inference_mode(False)
def _constants(spec: ImageSpec, device: torch.device) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(triple, device=device).view(3, 1, 1) for triple in (spec.mean, spec.std))
