"""Where views are rendered: on the host, or on the device from decoded images. The pixels are the same to the last bit.

Shapes: N views of a sample, B views of many, S pixels of a side, C = 3 channels, H and W pixels of an image.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from dr_pipeline.config.augmentation import Augmentation
from dr_pipeline.config.job import Rendering
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import ConfigError
from dr_pipeline.networks.images import host_tensor
from dr_pipeline.networks.launching import runs_kernels
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.render import pixels_of, render

_LARGEST_ON_DEVICE = 1 << 23
"""Pixels of an image, 25 MB: as many images as a chunk has are in memory several times."""


Launch = Callable[[torch.device], torch.Tensor]
"""Has a device copy the pixels of a chunk's views, or what it takes to make them, and render these → uint8 [B, S, S, C]
on the device, sample by sample.
"""


class Renderer(Protocol):
    """Renders views in two steps, which any thread may take."""

    def prepare(self, sample: Sample, image: Image.Image) -> None:
        """Do what is done for each sample by itself."""
        ...

    def pack(self, samples: Sequence[Sample]) -> Launch:
        """Do what is done for a chunk, of one or more samples, none of them to be skipped."""
        ...


class HostRenderer:
    """Renders views on the host's threads."""

    def __init__(self, augmentation: Augmentation, device: torch.device):
        self._recipe = Recipe(augmentation)
        self._device = device

    def prepare(self, sample: Sample, image: Image.Image) -> None:
        """Render the views of an image."""
        sample.views_NHWC = render(image, sample.views, self._recipe)

    def pack(self, samples: Sequence[Sample]) -> Launch:
        """Move the samples' views into one array."""
        views_BHWC = host_tensor(np.concatenate([sample.views_NHWC for sample in samples]), self._device)
        for sample in samples:
            sample.views_NHWC = None
        return partial(views_BHWC.to, non_blocking=True)


class DelayedRenderer(HostRenderer):
    """Leaves views to be rendered later on the host's threads, for they are mixed with those of earlier samples."""

    def prepare(self, sample: Sample, image: Image.Image) -> None:
        """Keep the image."""
        sample.decoded = image


class DeviceRenderer:
    """Has the device render views; the host only decodes. Very large images are rendered on the host."""

    def __init__(self, augmentation: Augmentation, device: torch.device):
        self._recipe = Recipe(augmentation)
        self._size = augmentation.size
        self._device = device
        self._on_host = HostRenderer(augmentation, device)

    def prepare(self, sample: Sample, image: Image.Image) -> None:
        """Keep the image's pixels."""
        if image.width * image.height > _LARGEST_ON_DEVICE:
            self._on_host.prepare(sample, image)
        else:
            sample.image_HWC = pixels_of(image)

    def pack(self, samples: Sequence[Sample]) -> Launch:
        """Plan the views of all images; on the host if one of them is rendered there."""
        from dr_pipeline.views.device.render import plan

        images_HWC = [sample.image_HWC for sample in samples if sample.image_HWC is not None]
        for sample in samples:
            if sample.image_HWC is not None and len(images_HWC) < len(samples):
                self._on_host.prepare(sample, Image.fromarray(sample.image_HWC))
            sample.image_HWC = None
        if len(images_HWC) < len(samples):
            return self._on_host.pack(samples)
        views = [sample.views for sample in samples]
        return plan(images_HWC, views, self._recipe, self._size, pinned=self._device.type == "cuda").launch


def renderer_for(rendering: Rendering, augmentation: Augmentation, device: torch.device) -> Renderer:
    """The renderer of `workers.render`. Raises ConfigError where the device is to render and cannot."""
    if rendering == "device" and not runs_kernels(device):
        raise ConfigError(
            "workers.render: device needs an NVIDIA GPU and Triton, which comes with torch on Linux; leave it at auto"
        )
    if augmentation.mixed_share:
        if rendering == "device":
            raise ConfigError("workers.render: views that are mixed (mixup, cutmix) are rendered on the host: use auto")
        return DelayedRenderer(augmentation, device)
    on_device = rendering == "device" or (rendering == "auto" and device.type == "cuda" and runs_kernels(device))
    return (DeviceRenderer if on_device else HostRenderer)(augmentation, device)
