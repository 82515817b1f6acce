"""Drawing is pure and torchvision's distribution; coding is lossless and refuses other recipes' entries."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from dr_pipeline.config.augmentation import Augmentation, RandAugmentSettings
from dr_pipeline.config.augmentation import RandomResizedCropSettings as CropRecipe
from dr_pipeline.views.rand_augment import op_magnitude
from dr_pipeline.views.recipe import UNDESCRIBED, Recipe, read_recipe
from dr_pipeline.views.transforms import View
from tests.conftest import GOLDEN, STANDARD, draw, view_of

PAPER = Augmentation()
CROP_ONLY = Augmentation(num_views=8, rand_augment=None)
SIGNED = {1, 2, 3, 4, 5, 6, 7, 8, 9}

sides = st.integers(1, 5000) | st.sampled_from([1, 2, 20000])
crops = st.tuples(*[st.integers(0, 2**31)] * 4)
magnitudes = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6).map(float)
views = st.builds(view_of, crops, st.lists(st.tuples(st.integers(0, 13), magnitudes), max_size=3).map(tuple))


@given(sides, sides, st.text(max_size=12), st.integers(0, 2**32))
def test_draw_is_pure_and_a_view_does_not_depend_on_how_many(width: int, height: int, key: str, seed: int) -> None:
    few, many = (Augmentation(num_views=count) for count in (3, 7))
    first = draw(width, height, few, seed, key)
    assert first == draw(width, height, few, seed, key)
    assert draw(width, height, many, seed, key)[:3] == first
    assert len(first) == 3


@given(sides, sides, st.integers(0, 2**32))
def test_crops_lie_inside_the_image(width: int, height: int, seed: int) -> None:
    for view in draw(width, height, CROP_ONLY, seed, "key"):
        top, left, crop_height, crop_width = dict(view)["random_resized_crop"]
        assert min(top, left) >= 0
        assert min(crop_height, crop_width) >= 1
        assert top + crop_height <= height
        assert left + crop_width <= width


def test_seed_key_and_index_each_change_the_view() -> None:
    drawn = draw(400, 300, PAPER, 0, "a")
    assert len(set(drawn)) == len(drawn) == 30
    assert not set(drawn) & set(draw(400, 300, PAPER, 1, "a"))
    assert not set(drawn) & set(draw(400, 300, PAPER, 0, "b"))


def test_drawn_views_are_pinned() -> None:
    # A stored dataset is extended and replayed by later versions: a draw may never change.
    recipe = Augmentation(num_views=2)
    entries = [Recipe(recipe).encode(view) for view in draw(640, 480, recipe, 0, "00000013")]
    assert entries == [[[287, 103, 180, 212], [[12, 0.0], [0, 0.0]]], [[105, 114, 320, 270], [[0, 0.0], [12, 0.0]]]]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20000, 1), (1, 20000), (4000, 40)])
def test_an_image_that_no_crop_fits_gives_torchvisions_central_crop(width: int, height: int) -> None:
    ((_, crop),) = draw(width, height, CROP_ONLY, 0, "key")[0]
    central = RandomResizedCrop.get_params(torch.zeros(1, height, width), [0.08, 1.0], [0.75, 1.3333333])
    assert crop == tuple(central)


def test_crops_have_torchvisions_distribution() -> None:
    torch.manual_seed(0)
    width, height, count = 500, 375, 3000
    image = torch.zeros(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [0.75, 4 / 3]) for _ in range(count)])
    recipe = Augmentation(num_views=count, rand_augment=None)
    ours = np.array([crop for ((_, crop),) in draw(width, height, recipe, 0, "key")])
    for name, values in {
        "area": lambda crops: crops[:, 2] * crops[:, 3] / (width * height),
        "aspect": lambda crops: np.log(crops[:, 3] / crops[:, 2]),
        "top": lambda crops: crops[:, 0] / height,
        "left": lambda crops: crops[:, 1] / width,
    }.items():
        one, other = values(ours), values(theirs)
        standard_error = math.hypot(one.std(), other.std()) / math.sqrt(count)
        assert abs(one.mean() - other.mean()) < 4 * standard_error, name
        assert abs(one.std() / other.std() - 1) < 0.06, name


def test_the_crop_recipe_is_obeyed() -> None:
    crop = CropRecipe(scale=(0.5, 0.6), ratio=(1.9, 2.1))
    for view in draw(1000, 1000, Augmentation(random_resized_crop=crop, num_views=200), 0, "key"):
        _, _, crop_height, crop_width = dict(view)["random_resized_crop"]
        area, ratio = crop_height * crop_width / 1e6, crop_width / crop_height
        assert 0.498 < area < 0.602
        assert 1.89 < ratio < 2.11


def test_operations_are_uniform_and_signs_even() -> None:
    recipe = Augmentation(num_views=2100)
    drawn = [dict(view)["rand_augment"] for view in draw(100, 100, recipe, 0, "key")]
    ops = [op for ops in drawn for op in ops]
    assert len(ops) == 4200
    counts = np.array([Counter(op for op, _ in ops)[index] for index in range(14)])
    assert ((counts - 300) ** 2 / 300).sum() < 34.5  # chi-square of 13 degrees of freedom, 99.9 %
    for op in range(14):
        signs = Counter(math.copysign(1, magnitude) for index, magnitude in ops if index == op)
        if op in SIGNED:
            assert abs(signs[1.0] - signs[-1.0]) < 4 * math.sqrt(counts[op]), op
        else:
            assert signs[-1.0] == 0, op
    pairs = Counter((first, second) for (first, _), (second, _) in drawn)
    assert len(pairs) == 14 * 14  # the second operation does not hang on the first


def test_magnitudes_are_the_contracts() -> None:
    recipe = RandAugmentSettings()
    expected = {0: 0, 1: 0.09, 2: 0.09, 3: 30.453, 4: 30.453, 5: 9, **dict.fromkeys((6, 7, 8, 9), 0.27)}
    expected |= {10: 7, 11: 178.5, 12: 0, 13: 0}
    for op, magnitude in expected.items():
        assert op_magnitude(op, recipe, 224) == pytest.approx(magnitude, abs=1e-3)
    assert op_magnitude(6, recipe, 224) == 0.26999998092651367  # float32 widened, not rounded
    assert op_magnitude(1, recipe, 224) == 0.09000000357627869


@given(views)
def test_coding_is_lossless(view: View) -> None:
    for recipe in (STANDARD, UNDESCRIBED):
        assert recipe.decode(json.loads(json.dumps(STANDARD.encode(view)))) == view
    crop_only = view[:1]
    assert STANDARD.decode(Recipe(CROP_ONLY).encode(crop_only)) == crop_only


def test_the_forms_are_the_contracts() -> None:
    crop, ops = (14, 347, 370, 427), ((0, 0.0), (6, 0.26999998092651367))
    stored = "[[14, 347, 370, 427], [[0, 0.0], [6, 0.26999998092651367]]]"
    assert json.dumps(STANDARD.encode(view_of(crop, ops))) == stored
    assert Recipe(CROP_ONLY).encode(view_of(crop)[:1]) == [list(crop)]
    assert STANDARD.decode([list(crop), None]) == view_of(crop)[:1]
    index = json.loads((GOLDEN / "replay" / "index.json").read_text())
    for golden in index["views"]:
        for recipe in (STANDARD, UNDESCRIBED):
            assert STANDARD.encode(recipe.decode(golden["param_aug"])) == golden["param_aug"]


MORE_WITHOUT_CONFIG = [[[0, 0, 1, 1], True], [[0, 0, 1, 1], False]]


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "[[0, 0, 1, 1]]",
        [],
        {},
        [[0, 0, 1, 1], [], []],
        [[0, 0, 1]],
        [[0, 0, 1, 1, 1]],
        [[0.0, 0, 1, 1]],
        [[True, 0, 1, 1]],
        [["0", 0, 1, 1]],
        [{"top": 0}],
        [[0, 0, 1, 1], True],
        [[0, 0, 1, 1], False],
        [[0, 0, 1, 1], 3],
        [[0, 0, 1, 1], {}],
        [[0, 0, 1, 1], [0, 0.0]],
        [[0, 0, 1, 1], [[14, 0.0]]],
        [[0, 0, 1, 1], [[-1, 0.0]]],
        [[0, 0, 1, 1], [[True, 0.0]]],
        [[0, 0, 1, 1], [[1.0, 0.0]]],
        [[0, 0, 1, 1], [[1]]],
        [[0, 0, 1, 1], [[1, 0.0, 0.0]]],
        [[0, 0, 1, 1], [[1, math.nan]]],
        [[0, 0, 1, 1], [[1, -math.inf]]],
        [[0, 0, 1, 1], [[1, True]]],
        [[0, 0, 1, 1], [[1, None]]],
        [[0, 0, 1, 1], [[1, "0.1"]]],
        [[0, 0, 1, 1], [[1, 10**400]]],
    ],
    ids=lambda entry: repr(entry)[:40],
)
def test_another_recipes_entry_is_refused(entry: object) -> None:
    for recipe in (STANDARD, UNDESCRIBED):
        if recipe is UNDESCRIBED and entry in MORE_WITHOUT_CONFIG:
            continue
        with pytest.raises(ValueError, match="found"):
            recipe.decode(entry)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=12))
def test_decode_raises_nothing_but_value_error(entry: object) -> None:
    for recipe in (STANDARD, UNDESCRIBED):
        try:
            view = recipe.decode(entry)
        except ValueError:
            continue
        assert recipe.encode(view)[0] == entry[0]  # type: ignore[index]


CROP = [1, 2, 30, 40]
OPS = [[6, 0.27], [0, 0.0]]
ERASED = [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ([CROP, True, OPS], ["random_horizontal_flip", "rand_augment"]),
        ([CROP, False], ["random_horizontal_flip"]),
        ([CROP, None, OPS, ERASED], ["rand_augment", "random_erase"]),
        ([CROP, ERASED], ["random_erase"]),
        ([CROP, True, ERASED], ["random_horizontal_flip", "random_erase"]),
        ([CROP, None, None], []),
    ],
)
def test_without_a_config_json_entries_are_told_by_their_shapes(entry: list[object], names: list[str]) -> None:
    view = UNDESCRIBED.decode(entry)
    assert [name for name, _ in view] == ["random_resized_crop", *names]
    others = [stored for stored in entry if stored is not None]
    assert [stored for stored in UNDESCRIBED.encode(view) if stored is not None] == others


@pytest.mark.parametrize(
    "entry",
    [[CROP, OPS, True], [CROP, ERASED, OPS], [CROP, True, True], [[1, 2], OPS], [CROP, ERASED, ERASED], [None, OPS]],
)
def test_without_a_config_json_another_order_is_refused(entry: list[object]) -> None:
    with pytest.raises(ValueError, match="found"):
        UNDESCRIBED.decode(entry)


@pytest.mark.parametrize("described", [[], None, 3, "random_resized_crop"])
def test_what_describes_no_views_is_no_recipe(described: object) -> None:
    assert read_recipe({"reinforce": {"image_augmentation": described}}) == UNDESCRIBED
    assert read_recipe({"reinforce": described}) == UNDESCRIBED
