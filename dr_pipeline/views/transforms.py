"""The transforms of a view: one class each, applied in a fixed order.

A transform draws its parameters, applies them, and encodes them as an entry of `param_aug`, each by a pure function. A
crop changes the box of the stored image that a view shows; the box is resized once, and the other transforms change its
8-bit pixels. Pixels are those of torchvision on Pillow images.

To add a transform, add its settings and its field to `ViewRecipe`, and its class here to `TRANSFORMS`.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image, ImageOps

from dr_pipeline.config import augmentation
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views import rand_augment
from dr_pipeline.views.rand_augment import Op
from dr_pipeline.views.seeding import Stream

_ATTEMPTS = 10

Box = tuple[int, int, int, int]
"""top, left, height, width in pixels of an image. What lies beyond the image is black."""
View = tuple[tuple[str, Any], ...]
"""One view of an image: (name, parameters) of each transform that was not skipped, in order.

`views.recipe.Recipe` draws and encodes views, and `views.render` renders them.
"""


class Transform:
    """The base of all transforms. Parameters are immutable, of each transform's own type; None where it is skipped."""

    name: ClassVar[str]
    """The field in `ViewRecipe`, and the key in `config.json`."""
    leaves_entry: ClassVar[bool] = True
    """Whether a view's list has an entry for it; not where it has no parameters."""
    replay_fields: ClassVar[tuple[str, ...]] = ()
    """The settings that decide the pixels, with the parameters."""
    foreign_fields: ClassVar[dict[str, Any]] = {}
    """Settings of other writers that change the pixels, each with the value that is replayed, torchvision's default."""

    def draw(self, width: int, height: int, stream: Stream) -> Any:
        """Draw parameters for a picture of `width` × `height` pixels from the stream's next numbers; None: skipped."""
        raise NotImplementedError

    def encode(self, parameters: Any) -> Any:
        """Parameters → the entry in a view's list, as plain JSON."""
        return list(parameters) if isinstance(parameters, tuple) else parameters

    def decode(self, entry: Any) -> Any:
        """An entry of any writer → parameters. Raises ValueError."""
        raise NotImplementedError

    def fits(self, parameters: Any, width: int, height: int) -> bool:
        """Whether the parameters are valid for a picture of this size."""
        return True


class Crop(Transform):
    """A transform that crops."""

    def apply(self, box: Box, parameters: Any) -> Box:
        """The new box within `box`, both in pixels of the stored image; pixels beyond the image are black."""
        raise NotImplementedError


class PixelTransform(Transform):
    """A transform of the resized view's 8-bit pixels."""

    def apply(self, view: Image.Image, parameters: Any) -> Image.Image:
        """The transformed view. Raises ValueError, TypeError or ArithmeticError where the parameters are not valid."""
        raise NotImplementedError


@dataclass(frozen=True)
class CenterCrop(Crop):
    """A central square, without parameters."""

    settings: augmentation.CenterCropSettings
    name = "center_crop"
    leaves_entry = False
    replay_fields = ("size",)

    def apply(self, box: Box, parameters: Any) -> Box:
        top, left, height, width = box
        size = self.settings.size
        return top + _central(height, size), left + _central(width, size), size, size


def _central(length: int, size: int) -> int:
    """The start of a central piece of an axis, rounded as torchvision does where it pads or crops."""
    return -((size - length) // 2) if size > length else round((length - size) / 2.0)


@dataclass(frozen=True)
class RandomCrop(Crop):
    """A square of `settings.size`; parameters: top and left, from the border's corner where the image is padded."""

    settings: augmentation.RandomCropSettings
    name = "random_crop"
    replay_fields = ("size", "pad_if_needed")
    foreign_fields: ClassVar = {"padding": None, "fill": 0, "padding_mode": "constant"}

    def draw(self, width: int, height: int, stream: Stream) -> tuple[int, int] | None:
        if skips(self.settings.p, stream):
            return None
        _, _, padded_height, padded_width = self._padded((0, 0, height, width))
        size = self.settings.size
        if min(padded_height, padded_width) < size:
            raise SampleSkipped("image too small", f"{width} × {height} px, random_crop takes {size} × {size}")
        return stream.integer(padded_height - size + 1), stream.integer(padded_width - size + 1)

    def decode(self, entry: Any) -> tuple[int, int]:
        top, left = _integers(entry, 2, "random_crop leaves two integers [top, left]")
        return top, left

    def apply(self, box: Box, parameters: tuple[int, int]) -> Box:
        top, left, _, _ = self._padded(box)
        return top + parameters[0], left + parameters[1], self.settings.size, self.settings.size

    def fits(self, parameters: tuple[int, int], width: int, height: int) -> bool:
        size = self.settings.size
        _, _, padded_height, padded_width = self._padded((0, 0, height, width))
        return _is_inside((*parameters, size, size), padded_width, padded_height)

    def _padded(self, box: Box) -> Box:
        """The padded box: torchvision adds the missing length on both sides."""
        top, left, height, width = box
        if not self.settings.pad_if_needed:
            return box
        below, right = max(0, self.settings.size - height), max(0, self.settings.size - width)
        return top - below, left - right, height + 2 * below, width + 2 * right


@dataclass(frozen=True)
class RandomResizedCrop(Crop):
    """A box of random area and aspect ratio; parameters: top, left, height, width."""

    settings: augmentation.RandomResizedCropSettings
    name = "random_resized_crop"
    replay_fields = ("size", "interpolation")
    foreign_fields: ClassVar = {"antialias": True}

    def draw(self, width: int, height: int, stream: Stream) -> Box | None:
        """Draw up to ten times; where no box fits, take the largest central box of an allowed ratio."""
        if skips(self.settings.p, stream):
            return None
        low, high = self.settings.ratio
        for _ in range(_ATTEMPTS):
            crop_width, crop_height = _random_shape(width * height, self.settings.scale, (low, high), stream)
            if 0 < crop_width <= width and 0 < crop_height <= height:
                top, left = stream.integer(height - crop_height + 1), stream.integer(width - crop_width + 1)
                return top, left, crop_height, crop_width
        ratio = min(max(width / height, low), high)
        crop_width = min(width, max(1, round(height * ratio)))
        crop_height = min(height, max(1, round(width / ratio)))
        return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width

    def decode(self, entry: Any) -> Box:
        top, left, height, width = _integers(entry, 4, "a crop is four integers [top, left, height, width]")
        return top, left, height, width

    def apply(self, box: Box, parameters: Box) -> Box:
        top, left, height, width = parameters
        return box[0] + top, box[1] + left, height, width

    def fits(self, parameters: Box, width: int, height: int) -> bool:
        return _is_inside(parameters, width, height)


@dataclass(frozen=True)
class RandomHorizontalFlip(PixelTransform):
    """A flip; the parameter is whether the view is flipped, so that the entry of one that is not is false."""

    settings: augmentation.RandomHorizontalFlipSettings
    name = "random_horizontal_flip"

    def draw(self, width: int, height: int, stream: Stream) -> bool:
        return stream.uniform() < self.settings.p

    def decode(self, entry: Any) -> bool:
        if not isinstance(entry, bool):
            raise ValueError(f"a flip is true or false, found {entry!r}")
        return entry

    def apply(self, view: Image.Image, parameters: bool) -> Image.Image:
        return ImageOps.mirror(view) if parameters else view


@dataclass(frozen=True)
class RandAugment(PixelTransform):
    """Several operations in order; parameters: (operation, magnitude) of each."""

    settings: augmentation.RandAugmentSettings
    name = "rand_augment"
    foreign_fields: ClassVar = {"interpolation": "nearest", "fill": None}

    def draw(self, width: int, height: int, stream: Stream) -> tuple[Op, ...] | None:
        if skips(self.settings.p, stream):
            return None
        return tuple(rand_augment.draw_op(self.settings, width, stream) for _ in range(self.settings.num_ops))

    def encode(self, parameters: tuple[Op, ...]) -> list[list[float]]:
        return [list(op) for op in parameters]

    def decode(self, entry: Any) -> tuple[Op, ...]:
        if not isinstance(entry, list):
            raise ValueError(f"RandAugment leaves a list of operations or null, found {entry!r}")
        return tuple(rand_augment.decode_op(op) for op in entry)

    def apply(self, view: Image.Image, parameters: tuple[Op, ...]) -> Image.Image:
        return rand_augment.apply(view, parameters)


@dataclass(frozen=True)
class RandomErase(PixelTransform):
    """A black rectangle; parameters: top, left, height, width in pixels of the view.

    Like RandAugment's translations, it is not rescaled for a view of another size.
    """

    settings: augmentation.RandomEraseSettings
    name = "random_erase"
    foreign_fields: ClassVar = {"value": 0}

    def draw(self, width: int, height: int, stream: Stream) -> Box | None:
        """Draw up to ten times; None where no rectangle fits."""
        if skips(self.settings.p, stream):
            return None
        for _ in range(_ATTEMPTS):
            # torchvision's ratio is height by width here.
            rows, columns = _random_shape(width * height, self.settings.scale, self.settings.ratio, stream)
            if rows < height and columns < width:
                return stream.integer(height - rows + 1), stream.integer(width - columns + 1), rows, columns
        return None

    def decode(self, entry: Any) -> Box:
        box = _integers(entry, 4, "random_erase leaves four integers [top, left, height, width]")
        if min(box) < 0:
            raise ValueError(f"random_erase leaves no negative number, found {entry!r}")
        top, left, height, width = box
        return top, left, height, width

    def apply(self, view: Image.Image, parameters: Box) -> Image.Image:
        top, left, height, width = parameters
        erased = view.copy()
        erased.paste((0, 0, 0), (left, top, left + width, top + height))
        return erased


TRANSFORMS = (CenterCrop, RandomCrop, RandomResizedCrop, RandomHorizontalFlip, RandAugment, RandomErase)
"""The order in which transforms apply, whatever their order in a job or a config.json."""


def skips(p: float, stream: Stream) -> bool:
    """Whether a transform of probability `p` is skipped. No number is drawn where p is 1."""
    return p < 1 and stream.uniform() >= p


def _random_shape(area: int, scale: tuple[float, float], ratio: tuple[float, float], stream: Stream) -> tuple[int, int]:
    """Two sides of a rectangle of a random share of `area`; the first is the second times a random ratio."""
    part = area * stream.uniform(*scale)
    aspect = math.exp(stream.uniform(math.log(ratio[0]), math.log(ratio[1])))
    return round(math.sqrt(part * aspect)), round(math.sqrt(part / aspect))


def _is_inside(box: Box, width: int, height: int) -> bool:
    top, left, box_height, box_width = box
    inside = top >= 0 and left >= 0 and top + box_height <= height and left + box_width <= width
    return inside and box_height >= 1 and box_width >= 1


def _integers(entry: Any, count: int, expected: str) -> list[int]:
    if not (isinstance(entry, list) and len(entry) == count and all(type(value) is int for value in entry)):
        raise ValueError(f"{expected}, found {entry!r}")
    return entry
