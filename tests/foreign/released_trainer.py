"""How the released trainer replays views: its rules, on torchvision's own transforms, and none of this package.

It rebuilds a pipeline from config.json's `reinforce.image_augmentation` and nothing else:
- A transform whose `enable` is false is left out; its other fields are arguments of torchvision's class, so that a
  field it does not know ends the program, and one that is not there is torchvision's default.
- The transforms have an order of their own. Each one that draws takes the next entry of a view's list; an entry that is
  null is passed over; what is left of the list is not looked at.
- RandAugment applies the first `num_ops` of the stored operations, whatever their number.
"""

import inspect
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
        enabled = {}
        for name, fields in config["reinforce"]["image_augmentation"].items():
            arguments = dict(fields)
            if arguments.pop("enable", True):
                enabled[name] = arguments
        del enabled["normalize"]  # the student's own takes its place
        crop = enabled["random_resized_crop"]
        self._crop = T.RandomResizedCrop(**crop | {"interpolation": T.InterpolationMode(crop["interpolation"])})
        self._ops: T.RandAugment | None = None
        if "rand_augment" in enabled:
            arguments = {name: value for name, value in enabled["rand_augment"].items() if name != "p"}
            self._ops = T.RandAugment(**arguments)

    def view(self, image: Image.Image, entry: list[Any]) -> Image.Image:
        """One stored view of a decoded image."""
        drawn = [stage for stage in (self._crop, self._ops) if stage]
        for stage, stored in zip(drawn, entry, strict=False):
            if stored is None:
                continue
            image = self._cropped(image, *stored) if stage is self._crop else self._augmented(image, stored)
        return image

    def _cropped(self, image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
        size = list(self._crop.size)
        return F.resized_crop(image, top, left, height, width, size, self._crop.interpolation, antialias=True)

    def _augmented(self, image: Image.Image, stored: list[Any]) -> Image.Image:
        assert self._ops is not None
        for index in range(self._ops.num_ops):
            number, magnitude = stored[index]
            image = _apply_op(
                image, OP_NAMES[number], magnitude, interpolation=self._ops.interpolation, fill=self._ops.fill
            )
        return image

    @property
    def drawn_by(self) -> dict[str, dict[str, Any]]:
        """The parameters by which it draws views anew, where a teacher is to see them."""
        crop = {name: getattr(self._crop, name) for name in ("size", "scale", "ratio", "interpolation")}
        names = ("num_ops", "magnitude", "num_magnitude_bins")
        return {"crop": crop, "ops": {name: getattr(self._ops, name) for name in names} if self._ops else {}}


def defaults(transform: type) -> dict[str, Any]:
    """A class's arguments that have a default."""
    parameters = inspect.signature(transform.__init__).parameters  # type: ignore[misc]
    return {name: given.default for name, given in parameters.items() if given.default is not inspect.Parameter.empty}
