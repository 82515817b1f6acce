"""Renders views on the device from decoded images, which one copy moves there.

Shapes: N views, S pixels of a side, H and W pixels of an image, C = 3 channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dr_pipeline.views.device import rand_augment
from dr_pipeline.views.device.resample import resize_crops, upload
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.resample import Box
from dr_pipeline.views.transforms import View


def render(
    images_HWC: Sequence[np.ndarray],
    views: Sequence[Sequence[View]],
    recipe: Recipe,
    size: int,
    device: torch.device,
) -> Tensor:
    """Uint8 images [H, W, 3] and the views of each → uint8 pixels [N, size, size, 3] on the device, image by image.

    The pixels are those of `views.render.render` with Pillow. Raises ValueError where a transform cannot take its
    parameters, where a box lies beyond its image, or where a transform has no kernel here.
    """
    owners = [index for index, own in enumerate(views) for _ in own]
    flat = [view for own in views for view in own]
    boxes = [_box(recipe, view, images_HWC[owner]) for owner, view in zip(owners, flat, strict=True)]
    rendered_NSSC = resize_crops(upload(images_HWC, device), owners, boxes, size, recipe.interpolation)
    for transform in recipe.pixel_transforms:
        drawn_N = [dict(view).get(transform.name) for view in flat]
        if transform.name not in _ON_DEVICE:
            raise ValueError(f"{transform.name} is not rendered on the device, only {', '.join(_ON_DEVICE)} are")
        rendered_NSSC = _ON_DEVICE[transform.name](rendered_NSSC, drawn_N)
    return rendered_NSSC


def _box(recipe: Recipe, view: View, image_HWC: np.ndarray) -> Box:
    image_height, image_width, _ = image_HWC.shape
    top, left, height, width = recipe.box(view, image_width, image_height)
    if min(top, left) < 0 or top + height > image_height or left + width > image_width:
        raise ValueError(
            f"a view shows {[top, left, height, width]} of an image of {image_width} × {image_height} px: a border is "
            "not rendered on the device"
        )
    return top, left, height, width


def _flip(views_NSSC: Tensor, flips_N: Sequence[bool | None]) -> Tensor:
    flipped_N = torch.tensor([bool(flip) for flip in flips_N]).to(views_NSSC.device, non_blocking=True)
    return torch.where(flipped_N[:, None, None, None], views_NSSC.flip(2), views_NSSC)


def _augment(views_NSSC: Tensor, ops_N: Sequence[Any]) -> Tensor:
    return rand_augment.apply(views_NSSC, [ops or () for ops in ops_N])


def _erase(views_NSSC: Tensor, boxes_N: Sequence[Box | None]) -> Tensor:
    for view_SSC, box in zip(views_NSSC, boxes_N, strict=True):
        if box is not None:
            top, left, height, width = box
            view_SSC[top : top + height, left : left + width] = 0
    return views_NSSC


_ON_DEVICE: dict[str, Callable[[Tensor, Sequence[Any]], Tensor]] = {
    "random_horizontal_flip": _flip,
    "rand_augment": _augment,
    "random_erase": _erase,
}
