"""Renders views on the device: the host plans them, on any thread, and the launch is two copies and a few kernels.

Shapes: M images, N views, S pixels of a side, H and W pixels of an image, C = 3 channels; T operations in a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from dr_pipeline.views.device import block_size
from dr_pipeline.views.device.rand_augment import FROM_HISTOGRAM, launch_op, plan_ops
from dr_pipeline.views.device.resample import Resize, launch_resize, plan_resize
from dr_pipeline.views.mixing import pair_of
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.transforms import Box, View

_ON_DEVICE = ("random_horizontal_flip", "rand_augment", "random_erase")


@dataclass(frozen=True)
class Planned:
    """N views to render: decoded images and all parameters, in the host's memory."""

    pixels: Tensor
    """The uint8 values of all images, one after the other."""
    parameters: Tensor
    """int64: those of the operations [T, N, W], the erased boxes [N, 4], the passes [N, 2, G] and lengths [L, 3]."""
    resize: Resize
    from_histograms: list[bool]
    """Whether each step of the operations needs histograms."""
    erases: bool

    def pin_memory(self) -> Self:
        """A copy in memory that a GPU copies by itself."""
        return replace(self, pixels=self.pixels.pin_memory(), parameters=self.parameters.pin_memory())

    def launch(self, device: torch.device) -> Tensor:
        """Launch the rendering → uint8 [N, S, S, 3] on the device. Nothing waits for the device."""
        num_views, num_steps = len(self.resize.passes_N2G), len(self.from_histograms)
        if not num_views:
            return torch.empty((0, self.resize.size, self.resize.size, 3), dtype=torch.uint8, device=device)
        pixels = self.pixels.to(device, non_blocking=True)
        parameters = self.parameters.to(device, non_blocking=True)
        ops, erased_N4, passes_N2G, lengths_L3 = parameters.split(
            [num_steps * num_views * 8, num_views * 4, self.resize.passes_N2G.size, self.resize.lengths_L3.size]
        )
        views_NSSC = launch_resize(pixels, passes_N2G, lengths_L3, self.resize)
        for numbers_NW, from_histogram in zip(ops.view(num_steps, num_views * 8), self.from_histograms, strict=True):
            views_NSSC = launch_op(views_NSSC, numbers_NW, from_histogram)
        if self.erases:
            num_pixels = self.resize.size**2
            block = block_size(num_pixels)
            _erase_kernel[(triton.cdiv(num_pixels, block), num_views)](views_NSSC, erased_N4, self.resize.size, block)
        return views_NSSC


def plan(
    images_HWC: Sequence[np.ndarray], views: Sequence[Sequence[View]], recipe: Recipe, size: int, pinned: bool
) -> Planned:
    """Plan the views of uint8 images [H, W, 3], image by image. `pinned`: in memory that a GPU copies by itself.

    Raises ValueError where a transform cannot take its parameters, or has no kernel here.
    """
    for transform in recipe.pixel_transforms:
        if transform.name not in _ON_DEVICE:
            raise ValueError(f"{transform.name} is not rendered on the device, only {', '.join(_ON_DEVICE)} are")
    if any(pair_of(view) for own in views for view in own):
        raise ValueError("views that are mixed with views of other images are not rendered on the device")
    owners = [index for index, own in enumerate(views) for _ in own]
    flat = [view for own in views for view in own]
    drawn_N = [dict(view) for view in flat]
    shapes = [(image.shape[0], image.shape[1]) for image in images_HWC]
    boxes = [recipe.box(view, shapes[owner][1], shapes[owner][0]) for owner, view in zip(owners, flat, strict=True)]
    flips = [bool(drawn.get("random_horizontal_flip")) for drawn in drawn_N]
    resize = plan_resize(shapes, owners, boxes, flips, size, recipe.interpolation)
    numbers_TNW = plan_ops([drawn.get("rand_augment") or () for drawn in drawn_N], size)
    erased_N4 = _corners([drawn.get("random_erase") for drawn in drawn_N], size)
    return Planned(
        pixels=_pack(images_HWC, torch.uint8, pinned),
        parameters=_pack([numbers_TNW, erased_N4, resize.passes_N2G, resize.lengths_L3], torch.int64, pinned),
        resize=resize,
        from_histograms=[bool(np.isin(numbers_NW[:, 1], FROM_HISTOGRAM).any()) for numbers_NW in numbers_TNW],
        erases=bool(erased_N4.any()),
    )


def render(
    images_HWC: Sequence[np.ndarray],
    views: Sequence[Sequence[View]],
    recipe: Recipe,
    size: int,
    device: torch.device,
) -> Tensor:
    """Uint8 images [H, W, 3] and the views of each → uint8 pixels [N, S, S, 3] on the device, image by image.

    The pixels are those of `views.render.render` with Pillow 13. Raises ValueError as `plan` does.
    """
    return plan(images_HWC, views, recipe, size, pinned=device.type == "cuda").launch(device)


def _corners(boxes_N: Sequence[Box | None], size: int) -> np.ndarray:
    """Boxes of views of `size` pixels → top, left, bottom and right, zeros where there is none."""
    corners_N4 = np.zeros((len(boxes_N), 4), np.int64)
    for corners, box in zip(corners_N4, boxes_N, strict=True):
        if box:
            top, left, height, width = box
            corners[:] = [min(number, size) for number in (top, left, top + height, left + width)]
    return corners_N4


def _pack(arrays: Sequence[np.ndarray], dtype: torch.dtype, pinned: bool) -> Tensor:
    """The values of all arrays, one after the other."""
    packed = torch.empty(sum(array.size for array in arrays), dtype=dtype, pin_memory=pinned)
    flat, start = packed.numpy(), 0
    for array in arrays:
        np.copyto(flat[start : start + array.size].reshape(array.shape), array)  # without the interpreter's lock
        start += array.size
    return packed


@triton.jit
def _erase_kernel(views_ptr, erased_ptr, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Blacken a box of each view."""
    view = tl.program_id(1)
    corners = erased_ptr + view * 4
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = pixel // size
    x = pixel - y * size
    below = (y >= tl.load(corners)) & (x >= tl.load(corners + 1))
    erased = below & (y < tl.load(corners + 2)) & (x < tl.load(corners + 3))
    values = views_ptr + view.to(tl.int64) * size * size * 3 + pixel * 3
    black = tl.zeros((BLOCK,), tl.uint8)
    for channel in tl.static_range(3):
        tl.store(values + channel, black, erased)
