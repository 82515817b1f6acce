"""The transforms of a dataset's views: they draw a view, and encode it as an entry of `param_aug`.

`render.render` makes the pixels. Distributions are torchvision's; random numbers come from a counter-based stream.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from dr_pipeline.config.augmentation import (
    MixedRecipe,
    RandomEraseSettings,
    RandomHorizontalFlipSettings,
    ViewRecipe,
)
from dr_pipeline.config.wording import what_is_wrong
from dr_pipeline.errors import ConfigError, SampleSkipped
from dr_pipeline.views.mixing import MIXINGS, PAIR, Mixing, Pair, pair_of
from dr_pipeline.views.seeding import Stream
from dr_pipeline.views.transforms import TRANSFORMS, Box, Crop, PixelTransform, Transform, View

_KINDS: dict[str, type[Transform]] = {kind.name: kind for kind in (*TRANSFORMS, *MIXINGS)}
_NOT_TORCHVISIONS = {"magnitudes"}
"""Settings that torchvision's classes do not take, and that do not change the parameters of a stored view."""
_NO_PIXELS = {"uint8", "to_rgb", "to_tensor", "normalize"}
"""Transforms of other writers that change only the form of the pixels."""


class Recipe:
    """The transforms of a job's views, or of a stored dataset's."""

    def __init__(self, settings: ViewRecipe):
        chosen = settings.transforms
        self.transforms: list[Transform] = [kind(chosen[kind.name]) for kind in TRANSFORMS if kind.name in chosen]
        # Crops choose the box of the stored image, pixel transforms change the resized box.
        self.crops = [transform for transform in self.transforms if isinstance(transform, Crop)]
        self.pixel_transforms = [transform for transform in self.transforms if isinstance(transform, PixelTransform)]
        self.mixings: list[Mixing] = [kind(chosen[kind.name]) for kind in MIXINGS if kind.name in chosen]
        self._entries = [transform for transform in self.transforms if transform.leaves_entry]
        self.size, self.interpolation = settings.size, settings.interpolation

    def draw(self, width: int, height: int, stream: Stream) -> View:
        """Draw a view of an image of `width` × `height` pixels from the stream's next numbers.

        Raises SampleSkipped where the image is too small for a crop.
        """
        drawn: dict[str, Any] = {}
        box = (0, 0, height, width)
        for crop in self.crops:
            _, _, box_height, box_width = box
            drawn[crop.name] = crop.draw(box_width, box_height, stream) if crop.leaves_entry else None
            box = _next_box(crop, box, drawn[crop.name])
        for transform in self.pixel_transforms:
            drawn[transform.name] = transform.draw(self.size, self.size, stream)
        return tuple((name, parameters) for name, parameters in drawn.items() if parameters is not None)

    def encode(self, view: View) -> list[Any]:
        """A view as a list of entries, such as `[[top, left, height, width], [[op, magnitude], …]]`.

        Where views may be mixed, the coding is ml-dr's: `[id2, [own, other's], …, mixup, cutmix]`, a pair for each
        transform, and `[null, own, …, null, null]` of a view that is not mixed.
        """
        own = _encoded(self._entries, view)
        if not self.mixings:
            return own
        pair = pair_of(view)
        if pair is None:
            return [None, *own, *(None for _ in self.mixings)]
        both = zip(own, _encoded(self._entries, pair.view), strict=True)
        return [pair.id2, *map(list, both), *_encoded(self.mixings, view)]

    def decode(self, entry: Any) -> View:
        """The inverse of `encode`; transforms without an entry are skipped. Raises ValueError."""
        if self.mixings:
            return self._decode_mixed(entry)
        names = ", ".join(transform.name for transform in self._entries)
        if not isinstance(entry, list) or not 1 <= len(entry) <= len(self._entries):
            raise ValueError(f"a view is a list with the parameters of {names}, found {entry!r}")
        return _decoded(self._entries, entry)

    def _decode_mixed(self, entry: Any) -> View:
        num_entries = len(self._entries)
        names = ", ".join(each.name for each in (*self._entries, *self.mixings))
        if not isinstance(entry, list) or len(entry) != 1 + num_entries + len(self.mixings):
            raise ValueError(f"a view is a list with id2 and the parameters of {names}, found {entry!r}")
        id2, entries, mixed = entry[0], entry[1 : 1 + num_entries], _decoded(self.mixings, entry[1 + num_entries :])
        if id2 is None and not mixed:
            return _decoded(self._entries, entries)
        if type(id2) is not int or id2 < 0 or not mixed:
            raise ValueError(f"a mixed view has an id2 and one of {names}, and another has neither, found {entry!r}")
        if not all(isinstance(both, list) and len(both) == 2 for both in entries):
            raise ValueError(f"each transform of a mixed view leaves two entries, found {entry!r}")
        own, other = (_decoded(self._entries, [both[index] for both in entries]) for index in (0, 1))
        return (*own, (PAIR, Pair(id2, other)), *mixed)

    def box(self, view: View, width: int, height: int) -> Box:
        """The part of an image of `width` × `height` pixels that a view shows; it may lie beyond the image."""
        drawn = dict(view)
        box = (0, 0, height, width)
        for crop in self.crops:
            box = _next_box(crop, box, drawn.get(crop.name))
        return box

    def without_crops(self) -> "Recipe":
        """The same recipe for images that are cropped already: a view shows all of one."""
        rest = copy.copy(self)
        rest.transforms, rest.crops, rest._entries = [*self.pixel_transforms], [], [*self.pixel_transforms]
        return rest

    def misfits(self, view: View, width: int, height: int) -> Iterator[str]:
        """Sentences about the crops of a view that do not fit an image of this size."""
        drawn = dict(view)
        box = (0, 0, height, width)
        for crop in self.crops:
            parameters = drawn.get(crop.name)
            if parameters is not None and not crop.fits(parameters, width=box[3], height=box[2]):
                yield f"{crop.name} {crop.encode(parameters)} lies outside the image of {box[3]} × {box[2]} px"
                return
            box = _next_box(crop, box, parameters)


class UndescribedRecipe(Recipe):
    """The recipe of shards without a config.json: the forms of a view's entries tell its transforms.

    A random_crop cannot be among them: only config.json has its size.
    """

    def __init__(self) -> None:
        super().__init__(
            ViewRecipe(random_horizontal_flip=RandomHorizontalFlipSettings(), random_erase=RandomEraseSettings())
        )

    def decode(self, entry: Any) -> View:
        """As `Recipe.decode`. Raises ValueError where an entry has the form of no later transform."""
        if not isinstance(entry, list) or not entry or entry[0] is None:
            raise ValueError(f"a view is a list that begins with its crop, found {entry!r}")
        crop, *others = self.transforms
        view = [(crop.name, crop.decode(entry[0]))]
        for stored in entry[1:]:
            if stored is None:
                continue
            errors = []
            while others:
                transform, *others = others
                try:
                    view.append((transform.name, transform.decode(stored)))
                    break
                except ValueError as error:
                    errors.append(str(error))
            else:
                raise ValueError("; ".join(errors) or f"no transform is left for it, found {stored!r}")
        return tuple(view)


UNDESCRIBED: Recipe = UndescribedRecipe()

WINDOW = 64
"""A view is mixed with one of so many samples before its own at most: whoever reads the shard in order has it."""


def draw(width: int, height: int, recipe: Recipe, num_views: int, seed: int, key: str) -> tuple[View, ...]:
    """The views of the image `key`, of `width` × `height` pixels; a pure function."""
    streams = (Stream(seed, "view", key, index) for index in range(num_views))
    return tuple(recipe.draw(width, height, stream) for stream in streams)


def mixed_with_earlier(
    views: Sequence[View], recipe: Recipe, seed: int, key: str, index: int, sizes: Sequence[tuple[int, int]]
) -> tuple[View, ...]:
    """The views of the sample `key`, each with the view that it is mixed with; a pure function.

    `index`: the sample's place in the output's shard; `sizes`: width and height of the images of the samples before it,
    the last min(index, WINDOW) of them, in order. Views of the first sample are not mixed, nor is one whose drawn
    image is too small for a crop.
    """
    mixed = []
    for number, view in enumerate(views):
        stream = Stream(seed, "mix", key, number)
        drawn = [(mixing.name, mixing.draw(recipe.size, recipe.size, stream)) for mixing in recipe.mixings]
        drawn = [(name, parameters) for name, parameters in drawn if parameters is not None]
        if drawn and sizes:
            place = stream.integer(len(sizes))
            try:
                other = recipe.draw(*sizes[place], stream)
                view = (*view, (PAIR, Pair(index - len(sizes) + place, other)), *drawn)
            except SampleSkipped:
                pass
        mixed.append(view)
    return tuple(mixed)


def describe_transforms(recipe: ViewRecipe) -> dict[str, Any]:
    """The transforms of a recipe as config.json has them: each with the parameters that are not at their defaults.

    The consumers construct torchvision's classes with these. The defaults are torchvision's, but for the interpolation.
    The consumers read random_resized_crop also where it is disabled.
    """
    crop, ops = recipe.random_resized_crop, recipe.rand_augment
    transforms: dict[str, Any] = {
        "rand_augment": {"enable": bool(ops), "p": 1.0},
        "random_resized_crop": {"interpolation": crop.interpolation, "size": crop.size} if crop else {"enable": False},
    }
    for name, settings in recipe.transforms.items():
        chosen = settings.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_TORCHVISIONS)
        transforms[name] = {**transforms.get(name, {"enable": True}), **chosen}
    return transforms


def read_recipe(config: dict[str, Any]) -> Recipe:
    """The recipe to replay the views of a dataset of any writer, from its config.json.

    Raises ConfigError where the replayed pixels would differ from those that the teachers saw.
    """
    tree = config
    for name in ("reinforce", "image_augmentation"):
        found = tree.get(name)
        tree = found if isinstance(found, dict) else {}
    enabled = {name: fields for name, fields in tree.items() if isinstance(fields, dict) and fields.get("enable", True)}
    wrong = sorted(enabled.keys() - _KINDS.keys() - _NO_PIXELS)
    for name, kind in _KINDS.items():
        for field, replayed in kind.foreign_fields.items():
            value = enabled.get(name, {}).get(field, replayed)
            if value != replayed:
                wrong.append(f"{name}.{field} = {value}")
    if wrong:
        raise ConfigError(
            f"the views were made with {', '.join(wrong)}, which is not replayed here; only {', '.join(_KINDS)} are, "
            "with interpolation nearest and no fill in rand_augment, and without padding in random_crop"
        )
    named = enabled.keys() & _KINDS.keys()
    if not named:
        return UNDESCRIBED
    settings: dict[str, Any] = dict.fromkeys(_KINDS)
    for name in named:
        settings[name] = {field: enabled[name][field] for field in _KINDS[name].replay_fields if field in enabled[name]}
    if not any(issubclass(_KINDS[name], Crop) for name in named):
        settings["random_resized_crop"] = {}
    try:
        return Recipe(MixedRecipe.model_validate(settings))
    except ValidationError as error:
        problems = "; ".join(what_is_wrong(MixedRecipe, error))
        raise ConfigError(f"the views cannot be replayed by its reinforce.image_augmentation: {problems}") from error


def _encoded(transforms: Sequence[Transform], view: View) -> list[Any]:
    drawn = dict(view)
    return [each.encode(drawn[each.name]) if each.name in drawn else None for each in transforms]


def _decoded(transforms: Sequence[Transform], entries: Sequence[Any]) -> View:
    pairs = zip(transforms, entries, strict=False)
    return tuple((each.name, each.decode(stored)) for each, stored in pairs if stored is not None)


def _next_box(crop: Crop, box: Box, parameters: Any) -> Box:
    """The box after a crop; a skipped crop leaves it unchanged."""
    return box if crop.leaves_entry and parameters is None else crop.apply(box, parameters)
