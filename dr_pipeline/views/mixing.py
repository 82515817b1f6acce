"""mixup and CutMix: a view is mixed with a view of an earlier image of its shard, after all other transforms.

Both are mixed as 8-bit pixels, in integers, so that every reader and every device makes the same: a share is a whole
number of 65536ths. Faghri et al. (ml-dr) mix normalised floats, which differs by rounding alone.

Shapes: H = W pixels, C = 3 channels.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from dr_pipeline.config import augmentation
from dr_pipeline.views.seeding import Stream
from dr_pipeline.views.transforms import Transform, View, skips

PAIR = "pair"
"""The name of a mixed view's `Pair` among its parameters."""

_WHOLE = 1 << 16


class Pair(NamedTuple):
    """The other view that a view is mixed with."""

    id2: int
    """The place of its image among the samples of the output's shard, counted from 0."""
    view: View


class Patch(NamedTuple):
    """What CutMix takes of the other view: rows `top:bottom` and columns `left:right`, in pixels of the view."""

    share: float
    """The number that was drawn, of which the size of the patch follows; readers need the box alone."""
    top: int
    left: int
    bottom: int
    right: int


class Mixing(Transform):
    """A transform that mixes two views of one size."""

    def apply(self, own_HWC: np.ndarray, other_HWC: np.ndarray, parameters: Any) -> np.ndarray:
        """The mixed view, uint8 as both are."""
        raise NotImplementedError


@dataclass(frozen=True)
class MixUp(Mixing):
    """A weighted mean; the parameter is the own view's share."""

    settings: augmentation.MixUpSettings
    name: ClassVar[str] = "mixup"

    def draw(self, width: int, height: int, stream: Stream) -> float | None:
        if skips(self.settings.p, stream):
            return None
        return _draw_share(self.settings.alpha, stream, self.settings.div_by)

    def decode(self, entry: Any) -> float:
        return _decode_share(entry, "mixup leaves a share between 0 and 1")

    def apply(self, own_HWC: np.ndarray, other_HWC: np.ndarray, parameters: float) -> np.ndarray:
        own = round(parameters * _WHOLE)
        mixed_HWC = np.multiply(own_HWC, own, dtype=np.int32)
        mixed_HWC += np.multiply(other_HWC, _WHOLE - own, dtype=np.int32)
        mixed_HWC += _WHOLE // 2  # rounds to the nearest, half up
        mixed_HWC >>= 16
        return mixed_HWC.astype(np.uint8)


@dataclass(frozen=True)
class CutMix(Mixing):
    """A rectangle of the other view in place of the own one. Like an erased one, it is not rescaled."""

    settings: augmentation.CutMixSettings
    name: ClassVar[str] = "cutmix"

    def draw(self, width: int, height: int, stream: Stream) -> Patch | None:
        """Draw a patch with a centre anywhere; what lies beyond the view is cut off."""
        if skips(self.settings.p, stream):
            return None
        share = _draw_share(self.settings.alpha, stream)
        side = math.sqrt(1 - share)
        half_height, half_width = int(height * side) // 2, int(width * side) // 2
        row, column = stream.integer(height), stream.integer(width)
        top, bottom = max(0, row - half_height), min(height, row + half_height)
        left, right = max(0, column - half_width), min(width, column + half_width)
        return Patch(share, top, left, bottom, right)

    def decode(self, entry: Any) -> Patch:
        expected = "cutmix leaves [share, top, left, bottom, right]"
        if not isinstance(entry, list) or len(entry) != 5 or not all(type(side) is int for side in entry[1:]):
            raise ValueError(f"{expected}, found {entry!r}")
        patch = Patch(_decode_share(entry[0], expected), *entry[1:])
        if not (0 <= patch.top <= patch.bottom and 0 <= patch.left <= patch.right):
            raise ValueError(f"{expected}, found {entry!r}")
        return patch

    def apply(self, own_HWC: np.ndarray, other_HWC: np.ndarray, parameters: Patch) -> np.ndarray:
        _, top, left, bottom, right = parameters
        mixed_HWC = own_HWC.copy()
        mixed_HWC[top:bottom, left:right] = other_HWC[top:bottom, left:right]
        return mixed_HWC


MIXINGS = (MixUp, CutMix)
"""The order in which they apply, both with the same other view."""


def pair_of(view: View) -> Pair | None:
    """The other view that a view is mixed with; None where it is not mixed."""
    return next((parameters for name, parameters in view if name == PAIR), None)


def own_share(view: View, size: int) -> float:
    """The part of a view of `size` pixels that its own image has; the rest is the other's."""
    drawn = dict(view)
    share, patch = drawn.get(MixUp.name, 1.0), drawn.get(CutMix.name)
    return share * (1 - (patch.bottom - patch.top) * (patch.right - patch.left) / size**2) if patch else share


def _draw_share(alpha: float, stream: Stream, div_by: float = 1.0) -> float:
    """A number of Beta(alpha, alpha), from the stream's next numbers, divided and rounded to a 65536th."""
    if alpha == 1:
        share = stream.uniform()
    else:
        one, other = _gamma(alpha, stream), _gamma(alpha, stream)
        share = one / (one + other)
    return round(share / div_by * _WHOLE) / _WHOLE


def _gamma(shape: float, stream: Stream) -> float:
    """A number of a gamma distribution (Marsaglia and Tsang 2000, with normal numbers of Box and Muller)."""
    if shape < 1:
        return _gamma(shape + 1, stream) * (1 - stream.uniform()) ** (1 / shape)
    d = shape - 1 / 3
    while True:
        first, second, third = (1 - stream.uniforms(3)).tolist()
        normal = math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)
        v = (1 + normal / math.sqrt(9 * d)) ** 3
        if v > 0 and math.log(third) < normal**2 / 2 + d * (1 - v + math.log(v)):
            return d * v


def _decode_share(entry: Any, expected: str) -> float:
    is_number = isinstance(entry, int | float) and not isinstance(entry, bool)
    if not is_number or not 0 <= entry <= 1:
        raise ValueError(f"{expected}, found {entry!r}")
    return float(entry)
