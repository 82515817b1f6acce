"""Render views on the device: host memory holds decoded images alone, and one copy moves them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dr_pipeline.config import Interpolation
from dr_pipeline.records import View
from dr_pipeline.views.device import rand_augment
from dr_pipeline.views.device.resample import resize_crops, upload


def render(
    images_HWC: Sequence[np.ndarray],
    views: Sequence[Sequence[View]],
    size: int,
    device: torch.device,
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """The views of each uint8 image [H, W, 3], image by image → uint8 pixels [N, size, size, 3] on the device.

    The pixels are those of `views.render.render` with Pillow. Raises ValueError where an operation cannot take its
    magnitude.
    """
    owners = [index for index, own in enumerate(views) for _ in own]
    flat = [view for own in views for view in own]
    images = upload(images_HWC, device)
    resized_NSSC = resize_crops(images, owners, [view.crop for view in flat], size, interpolation)
    return rand_augment.apply(resized_NSSC, [view.ops for view in flat])
