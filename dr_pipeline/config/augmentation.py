"""The schema of augmentation: the settings of each transform of a view, by the names that the consumers know."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dr_pipeline.config.strict import Fraction, PositiveInt, Strict, is_unset

Concentration = Annotated[float, Field(ge=0.1, le=100)]
"""The alpha of a symmetric beta distribution: the smaller, the nearer are its numbers to 0 or 1."""
Side = Annotated[int, Field(gt=0, le=1 << 14)]
Interpolation = Literal["bicubic", "bilinear"]
OpName = Literal[
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
]
"""RandAugment's operations; a stored view names one by its index here."""


def _check_ranges(settings: Any) -> Any:
    """Raise ValueError unless `scale` and `ratio` are ranges, and no part is larger than its image."""
    for name, (low, high) in (("scale", settings.scale), ("ratio", settings.ratio)):
        if not 0 < low <= high:
            raise ValueError(f"{name} must be [low, high] with 0 < low <= high, found [{low}, {high}]")
    if settings.scale[1] > 1:
        raise ValueError(f"scale: no part is larger than its image, found [{settings.scale[0]}, {settings.scale[1]}]")
    return settings


class CenterCropSettings(Strict):
    """torchvision's CenterCrop to a square of `size` pixels; a smaller image gets a black border."""

    size: Side


class RandomCropSettings(Strict):
    """torchvision's RandomCrop to a square of `size` pixels, not resized."""

    size: Side
    pad_if_needed: bool = False
    """Whether a smaller image gets a black border; otherwise it is skipped."""
    p: Fraction = 1.0


class RandomResizedCropSettings(Strict):
    """torchvision's RandomResizedCrop: `scale` is the share of the image's area, `ratio` is width / height."""

    size: PositiveInt = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333333)
    interpolation: Interpolation = "bicubic"
    p: Fraction = 1.0

    _are_ranges_ordered = model_validator(mode="after")(_check_ranges)


class RandomHorizontalFlipSettings(Strict):
    """torchvision's RandomHorizontalFlip."""

    p: Fraction = 0.5


class RandAugmentSettings(Strict):
    """torchvision's RandAugment: `magnitude` is an index of `num_magnitude_bins` bins."""

    num_ops: PositiveInt = 2
    magnitude: Annotated[int, Field(ge=0)] = 9
    num_magnitude_bins: PositiveInt = 31
    p: Fraction = 1.0
    magnitudes: dict[OpName, tuple[float, float]] | None = None
    """Operation → [low, high]: only these are drawn, each with a magnitude from its own range, as RangeAugment does."""

    @model_validator(mode="after")
    def _magnitudes_exist(self) -> Self:
        if self.magnitude >= self.num_magnitude_bins:
            raise ValueError(f"magnitude must be below num_magnitude_bins ({self.num_magnitude_bins})")
        if self.magnitudes is not None and not self.magnitudes:
            raise ValueError("magnitudes: name one operation at least")
        for name, (low, high) in (self.magnitudes or {}).items():
            if not -math.inf < low <= high < math.inf:
                raise ValueError(f"magnitudes.{name} must be [low, high] with low <= high, found [{low}, {high}]")
            if name == "posterize" and not (low >= 1 and high <= 8):
                raise ValueError(f"magnitudes.posterize: an operation keeps 1 to 8 bits, found [{low}, {high}]")
        return self


class RandomEraseSettings(Strict):
    """torchvision's RandomErasing, to black: `scale` is the share of the view's area, `ratio` is height / width."""

    p: Fraction = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    _are_ranges_ordered = model_validator(mode="after")(_check_ranges)


class MixUpSettings(Strict):
    """mixup with a view of another image: a number of Beta(alpha, alpha), divided by `div_by`, is the own share."""

    alpha: Concentration = 1.0
    div_by: Annotated[float, Field(ge=1)] = 1.0
    p: Fraction = 1.0


class CutMixSettings(Strict):
    """CutMix with a view of another image: the own share of a box is 1 - Beta(alpha, alpha)."""

    alpha: Concentration = 1.0
    p: Fraction = 1.0


class ViewRecipe(Strict):
    """The transforms of a view, in the order in which they apply; `null` leaves one out.

    The last crop decides the view's size.
    """

    center_crop: CenterCropSettings | None = None
    random_crop: RandomCropSettings | None = None
    random_resized_crop: RandomResizedCropSettings | None = RandomResizedCropSettings()
    random_horizontal_flip: RandomHorizontalFlipSettings | None = None
    rand_augment: RandAugmentSettings | None = RandAugmentSettings()
    random_erase: RandomEraseSettings | None = None

    @model_validator(mode="after")
    def _views_have_a_size(self) -> Self:
        if not (self.random_resized_crop or self.random_crop or self.center_crop):
            raise ValueError("random_resized_crop: null needs a random_crop or a center_crop, to give views their size")
        return self

    @property
    def transforms(self) -> dict[str, Any]:
        """The settings of the transforms that are used, by name, in their order."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: settings for name, settings in fields.items() if isinstance(settings, Strict)}

    @property
    def size(self) -> int:
        """Pixels of a view's side."""
        return getattr(self, self.sized_by).size

    @property
    def sized_by(self) -> str:
        """The name of the crop that decides a view's size."""
        return [name for name in self.transforms if name.endswith("_crop")][-1]

    @property
    def interpolation(self) -> Interpolation:
        """The interpolation by which crops are resized."""
        return self.random_resized_crop.interpolation if self.random_resized_crop else "bicubic"


class MixedRecipe(ViewRecipe):
    """The transforms of views that may be mixed with a view of another image."""

    mixup: Annotated[MixUpSettings | None, Field(exclude_if=is_unset)] = None
    cutmix: Annotated[CutMixSettings | None, Field(exclude_if=is_unset)] = None

    @property
    def mixed_share(self) -> float:
        """The share of views that are mixed."""
        return 1 - math.prod(1 - mixing.p for mixing in (self.mixup, self.cutmix) if mixing)


class Augmentation(MixedRecipe):
    """The recipe of a view, and the number of views of an image."""

    num_views: PositiveInt = 30
