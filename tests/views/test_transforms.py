"""Each transform makes torchvision's pixels of its parameters; a stored view has the pixels of the drawn one."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import InterpolationMode

from dr_pipeline.config.augmentation import RandAugmentSettings, ViewRecipe
from dr_pipeline.errors import ConfigError, SampleSkipped
from dr_pipeline.views.rand_augment import NUM_OPS
from dr_pipeline.views.recipe import Recipe, read_recipe
from dr_pipeline.views.render import render
from dr_pipeline.views.seeding import Stream
from dr_pipeline.views.transforms import TRANSFORMS
from tests.conftest import recipe_of
from tests.foreign.released_trainer import OP_NAMES

NO_DEFAULTS = {"random_resized_crop": None, "rand_augment": None}
OF_SIZE = {**NO_DEFAULTS, "center_crop": {"size": 64}}
"""A view of 64 px whose pixels no resize has touched."""


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def drawn(recipe: Recipe, image: Image.Image, name: str, count: int = 12) -> list[tuple[Any, Any]]:
    """Views, and what this transform drew for each."""
    views = [recipe.draw(*image.size, Stream(3, "view", name, index)) for index in range(count)]
    return [(view, dict(view).get(name)) for view in views]


def test_the_order_is_the_contracts() -> None:
    order = [
        "center_crop",
        "random_crop",
        "random_resized_crop",
        "random_horizontal_flip",
        "rand_augment",
        "random_erase",
    ]
    assert [kind.name for kind in TRANSFORMS] == order
    assert list(ViewRecipe.model_fields) == order
    settings = {
        "random_erase": {},
        "random_horizontal_flip": {},
        "center_crop": {"size": 9},
        "random_crop": {"size": 8},
    }
    assert [transform.name for transform in recipe_of(**settings).transforms] == order


def test_only_what_draws_leaves_an_entry() -> None:
    recipe = recipe_of(center_crop={"size": 20}, random_horizontal_flip={"p": 0}, random_erase={"p": 0})
    view = recipe.draw(40, 30, Stream(0))
    crop, flipped, ops, erased = recipe.encode(view)
    assert (len(crop), flipped, len(ops), erased) == (4, False, 2, None)


@pytest.mark.parametrize("size", [1, 2, 17, 24, 25, 31, 64])
@pytest.mark.parametrize("shape", [(24, 24), (25, 24), (31, 18), (17, 90), (1, 1)])
def test_center_crop(size: int, shape: tuple[int, int]) -> None:
    image = noise(*shape)
    recipe = recipe_of(**NO_DEFAULTS, center_crop={"size": size})
    (pixels_HWC,) = render(image, [()], recipe)
    assert np.array_equal(pixels_HWC, np.asarray(F.center_crop(image, [size])))


@pytest.mark.parametrize("shape", [(24, 24), (60, 41), (24, 30), (20, 40), (40, 20), (5, 7), (1, 1)])
def test_random_crop(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(*shape)
    recipe = recipe_of(**NO_DEFAULTS, random_crop={"size": 24, "pad_if_needed": True})
    for view, (top, left) in drawn(recipe, image, "random_crop"):
        monkeypatch.setattr(T.RandomCrop, "get_params", lambda *_, top=top, left=left: (top, left, 24, 24))
        expected = T.RandomCrop(24, pad_if_needed=True)(image)
        assert np.array_equal(render(image, [view], recipe)[0], np.asarray(expected))
        assert list(recipe.misfits(view, *shape)) == []


def test_random_crops_are_of_every_place() -> None:
    recipe = recipe_of(**NO_DEFAULTS, random_crop={"size": 24})
    assert {place for _, place in drawn(recipe, noise(26, 25), "random_crop", 99)} == {
        (top, left) for top in range(2) for left in range(3)
    }


def test_an_image_smaller_than_a_random_crop_is_skipped() -> None:
    with pytest.raises(SampleSkipped, match=r"image too small: 23 × 40 px, random_crop takes 24 × 24"):
        recipe_of(random_crop={"size": 24}).draw(23, 40, Stream(0))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_random_resized_crop(interpolation: str) -> None:
    image = noise(90, 70)
    recipe = recipe_of(random_resized_crop={"size": 32, "interpolation": interpolation}, rand_augment=None)
    for view, crop in drawn(recipe, image, "random_resized_crop"):
        expected = F.resized_crop(image, *crop, [32, 32], InterpolationMode(interpolation), antialias=True)
        assert np.array_equal(render(image, [view], recipe)[0], np.asarray(expected))


def test_random_horizontal_flip() -> None:
    image, recipe = noise(64, 64), recipe_of(**OF_SIZE, random_horizontal_flip={})
    views = drawn(recipe, image, "random_horizontal_flip", 400)
    for view, flipped in views[:12]:
        expected = F.hflip(image) if flipped else image
        assert np.array_equal(render(image, [view], recipe)[0], np.asarray(expected))
    assert 160 < sum(flipped for _, flipped in views) < 240


def test_rand_augment() -> None:
    image, recipe = noise(64, 64), recipe_of(**{**OF_SIZE, "rand_augment": {"num_ops": 3}})
    for view, ops in drawn(recipe, image, "rand_augment", 40):
        expected = image
        for op, magnitude in ops:
            expected = _apply_op(expected, OP_NAMES[op], magnitude, InterpolationMode.NEAREST, None)
        assert np.array_equal(render(image, [view], recipe)[0], np.asarray(expected))


def test_magnitudes_of_their_own_ranges() -> None:
    ranges = {"rotate": [-45, 90], "color": [-0.9, 0.5], "posterize": [2, 8], "identity": [0, 0]}
    recipe = recipe_of(rand_augment={"num_ops": 3, "magnitudes": ranges})
    ops = [op for _, ops in drawn(recipe, noise(64, 64), "rand_augment", 400) for op in ops]
    names = ["rotate", "color", "posterize", "identity"]
    for index, name in zip((5, 7, 10, 0), names, strict=True):
        low, high = ranges[name]
        magnitudes = [magnitude for op, magnitude in ops if op == index]
        assert 240 < len(magnitudes) < 360
        assert low <= min(magnitudes) <= low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) <= max(magnitudes) <= high
    assert {op for op, _ in ops} == {0, 5, 7, 10}
    again = recipe_of(rand_augment={"num_ops": 3, "magnitudes": dict(reversed(ranges.items()))})
    assert drawn(again, noise(64, 64), "rand_augment") == drawn(recipe, noise(64, 64), "rand_augment")


@pytest.mark.parametrize(
    ("magnitudes", "words"),
    [
        ({}, "name one operation"),
        ({"rotate": [3, 1]}, "low <= high"),
        ({"rotate": [0, float("inf")]}, "finite"),
        ({"posterize": [0, 8]}, "1 to 8 bits"),
        ({"cutout": [0, 1]}, "rand_augment.magnitudes.cutout"),
    ],
)
def test_magnitudes_that_cannot_be_drawn_are_refused(magnitudes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recipe_of(rand_augment={"magnitudes": magnitudes})


def test_random_erase() -> None:
    image, recipe = noise(64, 64), recipe_of(**OF_SIZE, random_erase={"p": 1})
    for view, (top, left, height, width) in drawn(recipe, image, "random_erase", 40):
        expected = F.erase(F.pil_to_tensor(image), top, left, height, width, F.pil_to_tensor(image)[:, :1, :1] * 0)
        assert np.array_equal(render(image, [view], recipe)[0], expected.permute(1, 2, 0).numpy())


def test_erased_rectangles_have_torchvisions_distribution() -> None:
    count = 1500
    recipe = recipe_of(**OF_SIZE, random_erase={"p": 1})
    ours = np.array([box for _, box in drawn(recipe, noise(64, 64), "random_erase", count)])
    pixels = F.pil_to_tensor(noise(64, 64))
    theirs = np.array([T.RandomErasing.get_params(pixels, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(count)])
    for column, name in enumerate(("top", "left", "height", "width")):
        error = np.hypot(ours[:, column].std(), theirs[:, column].std()) / np.sqrt(count)
        assert abs(ours[:, column].mean() - theirs[:, column].mean()) < 5 * error, name


def test_an_erased_rectangle_may_leave_a_smaller_view() -> None:
    image, recipe = noise(64, 64), recipe_of(**OF_SIZE, random_erase={})
    (pixels_HWC,) = render(image, [(("random_erase", (20, 30, 10, 999)),)], recipe, 32)
    assert (pixels_HWC[20:30, 30:] == 0).all()
    assert pixels_HWC[:20].any()
    assert pixels_HWC[:, :30].any(axis=-1).all()


@pytest.mark.parametrize("name", ["random_crop", "random_resized_crop", "rand_augment", "random_erase"])
def test_a_skipped_transform_leaves_null_and_the_pixels(name: str) -> None:
    image = noise(64, 64)
    recipe = recipe_of(**{**OF_SIZE, name: {"p": 0.25, **({"size": 64} if name.endswith("crop") else {})}})
    views = drawn(recipe, image, name, 400)
    skipped = [view for view, parameters in views if parameters is None]
    assert 260 < len(skipped) < 340
    assert recipe.encode(skipped[0]) == [None]
    assert np.array_equal(render(image, [skipped[0]], recipe)[0], np.asarray(image))


settings_of_views = st.fixed_dictionaries(
    {},
    optional={
        "center_crop": st.fixed_dictionaries({"size": st.integers(8, 60)}),
        "random_crop": st.fixed_dictionaries(
            {"size": st.integers(8, 60), "pad_if_needed": st.just(True), "p": st.sampled_from([0.5, 1.0])}
        ),
        "random_resized_crop": st.fixed_dictionaries(
            {
                "size": st.integers(8, 40),
                "interpolation": st.sampled_from(["bicubic", "bilinear"]),
                "p": st.sampled_from([0.5, 1.0]),
            }
        ),
        "random_horizontal_flip": st.just({}),
        "rand_augment": st.sampled_from([None, {"p": 0.5}, {"magnitudes": {"rotate": [-99, 99], "shear_x": [0, 2]}}]),
        "random_erase": st.fixed_dictionaries({"p": st.sampled_from([0.5, 1.0])}),
    },
)


@hypothesis_settings(max_examples=150)
@given(settings_of_views, st.integers(1, 70), st.integers(1, 70), st.integers(0, 99), st.integers(8, 40))
def test_a_stored_view_has_the_pixels_of_the_drawn_one(
    settings: dict[str, Any], width: int, height: int, seed: int, size: int
) -> None:
    recipe, image = recipe_of(**settings), noise(width, height, seed)
    view = recipe.draw(width, height, Stream(seed))
    stored = recipe.decode(json.loads(json.dumps(recipe.encode(view))))
    assert stored == view
    assert list(recipe.misfits(view, width, height)) == []
    for side in (None, size):
        pixels_NHWC = render(image, [stored, view], recipe, side)
        assert pixels_NHWC.shape == (2, side or recipe.size, side or recipe.size, 3)
        assert np.array_equal(pixels_NHWC[0], pixels_NHWC[1])


@pytest.mark.parametrize(
    ("settings", "entry"),
    [
        ({"random_crop": {"size": 20}}, [[11, 0]]),
        ({"random_crop": {"size": 20}}, [[0, -1]]),
        ({"random_crop": {"size": 50}}, [[0, 0]]),
        ({"random_crop": {"size": 50, "pad_if_needed": True}}, [[21, 0]]),
        ({"center_crop": {"size": 20}}, [[0, 0, 21, 9]]),
        ({"random_crop": {"size": 9}}, [[0, 0], [0, 0, 10, 9]]),
    ],
)
def test_a_crop_that_leaves_its_image_does_not_fit(settings: dict[str, Any], entry: list[Any]) -> None:
    recipe = recipe_of(**settings)
    (misfit,) = recipe.misfits(recipe.decode(entry), 40, 30)
    assert "lies outside the image of" in misfit


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("random_crop", [1]),
        ("random_crop", [1, 2, 3]),
        ("random_crop", [1.0, 2]),
        ("random_crop", [True, 2]),
        ("random_crop", True),
        ("random_horizontal_flip", 1),
        ("random_horizontal_flip", "true"),
        ("random_horizontal_flip", []),
        ("random_erase", [0, 0, 1]),
        ("random_erase", [0, 0, 1, -1]),
        ("random_erase", [-1, 0, 1, 1]),
        ("random_erase", [0, 0, 1, 1.5]),
        ("random_erase", [[0, 0.0]]),
    ],
)
def test_an_entry_of_another_form_is_refused(name: str, entry: Any) -> None:
    settings = {**OF_SIZE, name: {"size": 9} if name == "random_crop" else {}}
    with pytest.raises(ValueError, match="found"):
        recipe_of(**settings).decode([entry])


def test_parameters_that_no_pixel_can_take_are_told() -> None:
    recipe = recipe_of(**OF_SIZE, random_erase={})
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        render(noise(64, 64), [(("random_erase", (10**30, 0, 1, 1)),)], recipe)


def test_views_need_a_crop_that_gives_them_a_size() -> None:
    with pytest.raises(ValueError, match="needs a random_crop or a center_crop"):
        recipe_of(random_resized_crop=None)
    settings = {"center_crop": {"size": 90}, "random_crop": {"size": 80}}
    assert recipe_of(**settings, random_resized_crop=None).size == 80
    assert recipe_of(**settings, random_resized_crop={"size": 70}).size == 70


@pytest.mark.parametrize(
    ("transforms", "named"),
    [
        ({"resize": {"size": 256}}, "resize"),
        ({"auto_augment": {}}, "auto_augment"),
        ({"random_crop": {"size": 24, "padding": 4}}, "random_crop.padding = 4"),
        ({"random_crop": {"size": 24, "padding_mode": "edge"}}, "random_crop.padding_mode = edge"),
        ({"random_erase": {"value": "random"}}, "random_erase.value = random"),
        ({"rand_augment": {"fill": [1, 2, 3]}}, "rand_augment.fill ="),
    ],
)
def test_what_would_be_replayed_to_other_pixels_is_refused(transforms: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"the views were made with {named}"):
        read_recipe({"reinforce": {"image_augmentation": transforms}})


def test_settings_that_only_draw_are_not_read() -> None:
    transforms = {"rand_augment": {"magnitude": 9.5, "num_ops": "2"}, "random_resized_crop": {"size": 24, "scale": "?"}}
    assert read_recipe({"reinforce": {"image_augmentation": transforms}}).size == 24
    with pytest.raises(ConfigError, match="cannot be replayed"):
        read_recipe({"reinforce": {"image_augmentation": {"center_crop": {"size": [3, 4]}}}})


def test_every_operation_has_its_name() -> None:
    (names,) = [RandAugmentSettings.model_fields["magnitudes"].annotation.__args__[0].__args__[0].__args__]  # type: ignore[union-attr]
    assert [name.replace("_", "") for name in names] == [name.lower() for name in OP_NAMES]
    assert len(names) == NUM_OPS
