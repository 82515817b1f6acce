"""How the released trainer replays views: its rules, on torchvision's own transforms, and none of this package.

It rebuilds a pipeline from config.json's `reinforce.image_augmentation` and nothing else:
- A transform whose `enable` is false is left out; its other fields are arguments of torchvision's class, so that a
  field it does not know ends the program, and one that is not there is torchvision's default.
- The transforms have an order of their own. Each one that draws takes the next entry of a view's list; an entry that is
  null is passed over; what is left of the list is not looked at.
- RandAugment applies the first `num_ops` of the stored operations, whatever their number.
- random_resized_crop must be in the config.json, be it only to be left out. Its center_crop takes no Pillow image.
- random_erase erases to black, in the float pixels.
"""

import inspect
from collections.abc import Callable
from typing import Any

from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

OP_NAMES = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"),
    *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
)


class Replay:
    """The pipeline that a config.json describes, up to the 8-bit pixels."""

    def __init__(self, config: dict[str, Any]):
        described = {name: dict(fields) for name, fields in config["reinforce"]["image_augmentation"].items()}
        del described["normalize"]  # the student's own takes its place
        # The student's size and interpolation too: here they are the dataset's.
        described["random_resized_crop"].setdefault("interpolation", "bicubic")
        self.stages: dict[str, Any] = {}
        for name, kind in _KINDS.items():
            arguments = described.get(name, {"enable": False})
            if arguments.pop("enable", True):
                self.stages[name] = kind(**arguments)

    def view(self, image: Image.Image, entry: list[Any]) -> Image.Image:
        """One stored view of a decoded image."""
        drawing = [name for name in self.stages if name != "center_crop"]
        stored = dict(zip(drawing, entry, strict=False))
        for name, stage in self.stages.items():
            if name == "center_crop":
                image = stage(image).contiguous()
            elif stored.get(name) is not None:
                image = getattr(self, f"_{name}")(image, stage, stored[name])
        return image

    def _random_crop(self, image: Image.Image, stage: T.RandomCrop, stored: list[int]) -> Image.Image:
        height, width = stage.size
        if stage.pad_if_needed and image.width < width:
            image = F.pad(image, [width - image.width, 0], stage.fill, stage.padding_mode)
        if stage.pad_if_needed and image.height < height:
            image = F.pad(image, [0, height - image.height], stage.fill, stage.padding_mode)
        return F.crop(image, *stored, height, width)

    def _random_resized_crop(self, image: Image.Image, stage: T.RandomResizedCrop, stored: list[int]) -> Image.Image:
        return F.resized_crop(image, *stored, list(stage.size), stage.interpolation, antialias=True)

    def _random_horizontal_flip(self, image: Image.Image, _: T.RandomHorizontalFlip, stored: bool) -> Image.Image:
        return F.hflip(image) if stored else image

    def _rand_augment(self, image: Image.Image, stage: T.RandAugment, stored: list[Any]) -> Image.Image:
        for index in range(stage.num_ops):
            number, magnitude = stored[index]
            image = _apply_op(image, OP_NAMES[number], magnitude, interpolation=stage.interpolation, fill=stage.fill)
        return image

    def _random_erase(self, image: Image.Image, _: T.RandomErasing, stored: list[int]) -> Image.Image:
        x, y, height, width = stored
        pixels_CHW = F.to_tensor(image)
        pixels_CHW[:, x : x + height, y : y + width] = 0
        return F.to_pil_image(pixels_CHW)

    @property
    def drawn_by(self) -> dict[str, dict[str, Any]]:
        """The parameters by which it draws views anew, where a teacher is to see them."""
        crop, ops = self.stages["random_resized_crop"], self.stages.get("rand_augment")
        names = ("num_ops", "magnitude", "num_magnitude_bins")
        return {
            "crop": {name: getattr(crop, name) for name in ("size", "scale", "ratio", "interpolation")},
            "ops": {name: getattr(ops, name) for name in names} if ops else {},
        }


def _resized_crop(interpolation: str, **arguments: Any) -> T.RandomResizedCrop:
    return T.RandomResizedCrop(**arguments, interpolation=T.InterpolationMode(interpolation))


def _rand_augment(p: float = 1.0, **arguments: Any) -> T.RandAugment:
    return T.RandAugment(**arguments)


_KINDS: dict[str, Callable[..., Any]] = {
    "center_crop": T.CenterCrop,
    "random_crop": T.RandomCrop,
    "random_resized_crop": _resized_crop,
    "random_horizontal_flip": T.RandomHorizontalFlip,
    "rand_augment": _rand_augment,
    "random_erase": T.RandomErasing,
}


def defaults(transform: type) -> dict[str, Any]:
    """A class's arguments that have a default."""
    parameters = inspect.signature(transform.__init__).parameters  # type: ignore[misc]
    return {name: given.default for name, given in parameters.items() if given.default is not inspect.Parameter.empty}
