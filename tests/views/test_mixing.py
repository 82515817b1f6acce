"""Mixed views: drawn by key and place alone, coded as ml-dr codes them, and mixed to the same pixels by any reader."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from dr_pipeline.config.augmentation import Augmentation, CutMixSettings, MixUpSettings, ViewRecipe
from dr_pipeline.views.mixing import CutMix, MixUp, Pair, Patch, pair_of
from dr_pipeline.views.recipe import WINDOW, Recipe, describe_transforms, mixed_with_earlier, read_recipe
from dr_pipeline.views.render import render
from dr_pipeline.views.seeding import Stream
from dr_pipeline.views.transforms import View
from tests.conftest import draw
from tests.views.test_transforms import noise

BOTH = Augmentation.model_validate(
    {
        "num_views": 8,
        "random_resized_crop": {"size": 24},
        "random_horizontal_flip": {},
        "random_erase": {"p": 0.25},
        "mixup": {"div_by": 2, "p": 0.5},
        "cutmix": {"p": 0.5},
    }
)
RECIPE = Recipe(BOTH)
SIZES = [(40, 30), (31, 47), (24, 24)]


def drawn(key: str = "00000013", index: int = 3, sizes: list[tuple[int, int]] = SIZES) -> tuple[View, ...]:
    return mixed_with_earlier(draw(40, 30, BOTH, 0, key), RECIPE, 0, key, index, sizes)


def test_drawn_pairs_are_pinned() -> None:
    # A stored dataset is replayed and checked by later versions: a draw may never change.
    plain = BOTH.model_copy(update={"rand_augment": None, "random_erase": None})
    views = mixed_with_earlier(draw(40, 30, plain, 0, "00000013")[:4], Recipe(plain), 0, "00000013", 3, SIZES)
    assert [Recipe(plain).encode(view) for view in views] == [
        [1, [[19, 6, 11, 13], [15, 3, 26, 27]], [False, True], 0.212249755859375, [0.4966583251953125, 12, 11, 24, 24]],
        [0, [[7, 7, 20, 17], [2, 6, 28, 24]], [True, False], None, [0.43402099609375, 0, 4, 17, 22]],
        [None, [8, 10, 19, 22], True, None, None],
        [None, [6, 2, 24, 31], False, None, None],
    ]


def test_own_views_are_those_of_a_recipe_without_mixing() -> None:
    plain = draw(40, 30, BOTH.model_copy(update={"mixup": None, "cutmix": None}), 0, "00000013")
    names = [transform.name for transform in RECIPE.transforms]
    assert tuple(tuple(part for part in view if part[0] in names) for view in drawn()) == plain


def test_a_pair_is_one_of_the_images_before_it_and_the_first_has_none() -> None:
    assert all(pair_of(view) is None for view in drawn(index=0, sizes=[]))
    pairs = [pair for index in range(40) for view in drawn(str(index), 90) if (pair := pair_of(view))]
    assert {pair.id2 for pair in pairs} == {87, 88, 89}
    for pair in pairs:
        assert not [*RECIPE.misfits(pair.view, *SIZES[pair.id2 - 87])]
    assert WINDOW == 64


def test_each_kind_of_mixing_comes_alone_together_and_not_at_all() -> None:
    views = [view for index in range(100) for view in drawn(str(index))]
    kinds = [tuple(name for name, _ in view if name in ("mixup", "cutmix")) for view in views]
    shares = {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)}
    assert shares.keys() == {(), ("mixup",), ("cutmix",), ("mixup", "cutmix")}
    assert all(abs(share - 0.25) < 0.06 for share in shares.values())


def test_coding_is_lossless() -> None:
    for index in range(20):
        for view in drawn(str(index)):
            assert RECIPE.decode(json.loads(json.dumps(RECIPE.encode(view)))) == view


CROP, OPS = [[0, 0, 5, 5], [1, 1, 4, 4]], [[[0, 0.0]], None]


@pytest.mark.parametrize(
    "entry",
    [
        [0, CROP, [True, False], OPS, [None, None], None, None],
        [None, CROP[0], True, OPS[0], None, 0.5, None],
        [-1, CROP, [True, False], OPS, [None, None], 0.5, None],
        [True, CROP, [True, False], OPS, [None, None], 0.5, None],
        [1.0, CROP, [True, False], OPS, [None, None], 0.5, None],
        [0, CROP[0], [True, False], OPS, [None, None], 0.5, None],
        [0, CROP, True, OPS, [None, None], 0.5, None],
        [0, CROP, [True, False], OPS, None, 0.5, None],
        [0, CROP, [True, False], OPS, [None, None], 1.5, None],
        [0, CROP, [True, False], OPS, [None, None], float("nan"), None],
        [0, CROP, [True, False], OPS, [None, None], "0.5", None],
        [0, CROP, [True, False], OPS, [None, None], None, [0.5, 1, 2, 3]],
        [0, CROP, [True, False], OPS, [None, None], None, [0.5, 3, 2, 1, 4]],
        [0, CROP, [True, False], OPS, [None, None], None, [0.5, -1, 2, 3, 4]],
        [0, CROP, [True, False], OPS, [None, None], None, [0.5, 1.0, 2, 3, 4]],
        [0, CROP, [True, False], OPS, [None, None], 0.5],
        [0],
        [],
        None,
    ],
)
def test_what_is_no_mixed_view_is_refused(entry: Any) -> None:
    with pytest.raises(ValueError, match="found"):
        RECIPE.decode(entry)


def test_a_replayed_recipe_knows_the_mixing() -> None:
    transforms = json.loads(json.dumps(describe_transforms(BOTH)))
    assert transforms["mixup"] == {"enable": True, "div_by": 2.0, "p": 0.5}
    recipe = read_recipe({"reinforce": {"image_augmentation": transforms}})
    entry = RECIPE.encode(drawn()[0])
    assert recipe.decode(entry) == RECIPE.decode(entry)


@pytest.mark.parametrize("own", [0, 1, 30_000, 32_768, 65_535, 65_536])
def test_mixup_is_the_rounded_mean_in_any_arithmetic(own: int) -> None:
    one_HWC, other_HWC = (np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8) for seed in (0, 1))
    share = own / 65_536
    mixed_HWC = MixUp(MixUpSettings()).apply(one_HWC, other_HWC, share)
    for kind in (np.float32, np.float64):
        mean_HWC = kind(share) * one_HWC.astype(kind) + (1 - kind(share)) * other_HWC.astype(kind)
        assert np.array_equal(mixed_HWC, np.floor(mean_HWC + kind(0.5)))


def test_a_drawn_share_is_a_whole_number_of_65536ths_below_a_half() -> None:
    shares = [MixUp(MixUpSettings(div_by=2)).draw(8, 8, Stream(index)) for index in range(500)]
    assert all(share is not None and share <= 0.5 and (share * 65_536).is_integer() for share in shares)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 3.0])
def test_shares_have_the_beta_distribution(alpha: float) -> None:
    shares = [MixUp(MixUpSettings(alpha=alpha)).draw(8, 8, Stream(7, index)) for index in range(3000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_a_patch_has_the_size_that_its_share_leaves_and_any_centre() -> None:
    patches = [CutMix(CutMixSettings()).draw(40, 20, Stream(3, index)) for index in range(500)]
    for patch in patches:
        assert patch is not None
        side = math.sqrt(1 - patch.share)
        assert 0 <= patch.top <= patch.bottom <= 20
        assert 0 <= patch.left <= patch.right <= 40
        assert patch.bottom - patch.top <= 2 * (int(20 * side) // 2)
        if patch.top > 0 and patch.bottom < 20:
            assert patch.bottom - patch.top == 2 * (int(20 * side) // 2)
    assert len({patch.right for patch in patches if patch}) > 20


def test_a_mixed_view_is_ml_dr_s_but_for_rounding() -> None:
    """Both views go through their transforms; then mixup, and the patch of the other view, on float tensors."""
    image, others = noise(40, 30), {index: noise(*size, seed=index + 1) for index, size in enumerate(SIZES)}
    plain = Recipe(BOTH.model_copy(update={"mixup": None, "cutmix": None}))
    num_both = 0
    for view in drawn():
        (pixels_HWC,) = render(image, [view], RECIPE, pairs=others)
        own = tuple(part for part in view if part[0] not in ("pair", "mixup", "cutmix"))
        mixed_HWC, parts = torch.from_numpy(render(image, [own], plain)[0]) / 255, dict(view)
        if pair := pair_of(view):
            other_HWC = torch.from_numpy(render(others[pair.id2], [pair.view], plain)[0]) / 255
            if share := parts.get("mixup"):
                mixed_HWC = share * mixed_HWC + (1 - share) * other_HWC
            if patch := parts.get("cutmix"):
                rows, columns = slice(patch.top, patch.bottom), slice(patch.left, patch.right)
                mixed_HWC[rows, columns] = other_HWC[rows, columns]
            num_both += len(parts.keys() & {"mixup", "cutmix"}) == 2
        assert (mixed_HWC * 255 - torch.from_numpy(pixels_HWC)).abs().max() <= 0.5 + 1e-3
    assert num_both


def test_a_pair_that_is_not_given_is_told() -> None:
    view = (*drawn()[0][:1], ("pair", Pair(7, ())), ("cutmix", Patch(0.5, 0, 0, 1, 1)))
    with pytest.raises(ValueError, match="mixed with one of image 7 of its shard, which is not there"):
        render(noise(40, 30), [view], RECIPE, pairs={6: Image.new("RGB", (9, 9))})


def test_a_student_that_draws_views_itself_has_no_pairs() -> None:
    with pytest.raises(ValidationError, match="mixup"):
        ViewRecipe.model_validate({"mixup": {}})
