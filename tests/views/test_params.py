"""Drawing is pure and torchvision's distribution; coding is lossless and refuses another recipe."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from dr_pipeline.config import Augmentation, RandAugment
from dr_pipeline.config import RandomResizedCrop as CropRecipe
from dr_pipeline.records import View
from dr_pipeline.views import params
from tests.conftest import GOLDEN

PAPER = Augmentation()
CROP_ONLY = Augmentation(num_views=8, rand_augment=None)
SIGNED = {1, 2, 3, 4, 5, 6, 7, 8, 9}

sides = st.integers(1, 5000) | st.sampled_from([1, 2, 20000])
crops = st.tuples(*[st.integers(0, 2**31)] * 4)
magnitudes = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6).map(float)
views = st.builds(View, crops, st.lists(st.tuples(st.integers(0, 13), magnitudes), max_size=3).map(tuple))


@given(sides, sides, st.text(max_size=12), st.integers(0, 2**32))
def test_draw_is_pure_and_a_view_does_not_depend_on_how_many(width: int, height: int, key: str, seed: int) -> None:
    few, many = (Augmentation(num_views=count) for count in (3, 7))
    first = params.draw(width, height, few, seed, key)
    assert first == params.draw(width, height, few, seed, key)
    assert params.draw(width, height, many, seed, key)[:3] == first
    assert len(first) == 3


@given(sides, sides, st.integers(0, 2**32))
def test_crops_lie_inside_the_image(width: int, height: int, seed: int) -> None:
    for view in params.draw(width, height, CROP_ONLY, seed, "key"):
        top, left, crop_height, crop_width = view.crop
        assert min(top, left) >= 0
        assert min(crop_height, crop_width) >= 1
        assert top + crop_height <= height
        assert left + crop_width <= width


def test_seed_key_and_index_each_change_the_view() -> None:
    drawn = params.draw(400, 300, PAPER, 0, "a")
    assert len(set(drawn)) == len(drawn) == 30
    assert not set(drawn) & set(params.draw(400, 300, PAPER, 1, "a"))
    assert not set(drawn) & set(params.draw(400, 300, PAPER, 0, "b"))


def test_drawn_views_are_pinned() -> None:
    # A stored dataset is extended and replayed by later versions: a draw may never change.
    recipe = Augmentation(num_views=2)
    entries = [params.encode(view, recipe) for view in params.draw(640, 480, recipe, 0, "00000013")]
    assert entries == [[[287, 103, 180, 212], [[12, 0.0], [0, 0.0]]], [[105, 114, 320, 270], [[0, 0.0], [12, 0.0]]]]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20000, 1), (1, 20000), (4000, 40)])
def test_an_image_that_no_crop_fits_gives_torchvisions_central_crop(width: int, height: int) -> None:
    crop = params.draw(width, height, CROP_ONLY, 0, "key")[0].crop
    central = RandomResizedCrop.get_params(torch.zeros(1, height, width), [0.08, 1.0], [0.75, 1.3333333])
    assert crop == tuple(central)


def test_crops_have_torchvisions_distribution() -> None:
    torch.manual_seed(0)
    width, height, count = 500, 375, 3000
    image = torch.zeros(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [0.75, 4 / 3]) for _ in range(count)])
    recipe = Augmentation(num_views=count, rand_augment=None)
    ours = np.array([view.crop for view in params.draw(width, height, recipe, 0, "key")])
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
    for view in params.draw(1000, 1000, Augmentation(random_resized_crop=crop, num_views=200), 0, "key"):
        area, ratio = view.crop[2] * view.crop[3] / 1e6, view.crop[3] / view.crop[2]
        assert 0.498 < area < 0.602
        assert 1.89 < ratio < 2.11


def test_operations_are_uniform_and_signs_even() -> None:
    recipe = Augmentation(num_views=2100)
    drawn = params.draw(100, 100, recipe, 0, "key")
    ops = [op for view in drawn for op in view.ops]
    assert len(ops) == 4200
    counts = np.array([Counter(op for op, _ in ops)[index] for index in range(14)])
    assert ((counts - 300) ** 2 / 300).sum() < 34.5  # chi-square of 13 degrees of freedom, 99.9 %
    for op in range(14):
        signs = Counter(math.copysign(1, magnitude) for index, magnitude in ops if index == op)
        if op in SIGNED:
            assert abs(signs[1.0] - signs[-1.0]) < 4 * math.sqrt(counts[op]), op
        else:
            assert signs[-1.0] == 0, op
    pairs = Counter((view.ops[0][0], view.ops[1][0]) for view in drawn)
    assert len(pairs) == 14 * 14  # the second operation does not hang on the first


def test_magnitudes_are_the_contracts() -> None:
    recipe = RandAugment()
    expected = {0: 0, 1: 0.09, 2: 0.09, 3: 30.453, 4: 30.453, 5: 9, **dict.fromkeys((6, 7, 8, 9), 0.27)}
    expected |= {10: 7, 11: 178.5, 12: 0, 13: 0}
    for op, magnitude in expected.items():
        assert params.op_magnitude(op, recipe, 224) == pytest.approx(magnitude, abs=1e-3)
    assert params.op_magnitude(6, recipe, 224) == 0.26999998092651367  # float32 widened, not rounded
    assert params.op_magnitude(1, recipe, 224) == 0.09000000357627869


@given(views)
def test_coding_is_lossless(view: View) -> None:
    entry = json.loads(json.dumps(params.encode(view, PAPER)))
    assert params.decode(entry) == view
    assert params.decode(params.encode(View(view.crop, ()), CROP_ONLY)) == View(view.crop, ())


def test_the_forms_are_the_contracts() -> None:
    view = View((14, 347, 370, 427), ((0, 0.0), (6, 0.26999998092651367)))
    assert json.dumps(params.encode(view, PAPER)) == "[[14, 347, 370, 427], [[0, 0.0], [6, 0.26999998092651367]]]"
    assert params.encode(view, CROP_ONLY) == [[14, 347, 370, 427]]
    assert params.decode([[14, 347, 370, 427], None]) == View((14, 347, 370, 427), ())
    index = json.loads((GOLDEN / "replay" / "index.json").read_text())
    for golden in index["views"]:
        assert params.encode(params.decode(golden["param_aug"]), PAPER) == golden["param_aug"]


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
        [None, []],
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
    with pytest.raises(ValueError, match="found"):
        params.decode(entry)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=12))
def test_decode_raises_nothing_but_value_error(entry: object) -> None:
    try:
        view = params.decode(entry)
    except ValueError:
        return
    assert params.encode(view, CROP_ONLY)[0] == entry[0]  # type: ignore[index]
