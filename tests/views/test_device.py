"""What the device renders equals what the host renders, to the last bit.

Without a GPU the kernels run in Triton's interpreter (tests/conftest.py): the same code, slowly, on fewer views.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dr_pipeline.config.augmentation import Augmentation, Interpolation
from dr_pipeline.views import rand_augment
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.render import decode, render
from dr_pipeline.views.seeding import Stream
from dr_pipeline.views.transforms import RandomErase, View
from tests.conftest import GOLDEN, STANDARD, draw, recipe_of, view_of

INDEX = json.loads((GOLDEN / "replay" / "index.json").read_text())
CUDA = torch.cuda.is_available()

Render = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def render_on_device() -> Render:
    device = torch.device("cuda" if CUDA else "cpu")
    from dr_pipeline.views.device.render import render as on_device

    def rendered(images: Sequence[Image.Image], views: Sequence[Sequence[View]], size: int,
                 recipe: Recipe = STANDARD) -> np.ndarray:  # fmt: skip
        pixels = [np.asarray(image) for image in images]
        return on_device(pixels, views, recipe, size, device).cpu().numpy()

    return rendered


def by_host(images: Sequence[Image.Image], views: Sequence[Sequence[View]], size: int,
            recipe: Recipe = STANDARD) -> np.ndarray:  # fmt: skip
    return np.concatenate([render(image, own, recipe, size) for image, own in zip(images, views, strict=True)])


def noise(width: int, height: int, seed: int) -> Image.Image:
    """Blocks of noise beside noise: edges, flat places and extremes."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 255, *rng.integers(0, 256, 6)], (height // 8 + 1, width // 8 + 1, 3))
    pixels = coarse.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)
    pixels[: height // 2] = rng.integers(0, 256, (height // 2, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def random_crops(count: int, image: Image.Image, rng: np.random.Generator) -> list[View]:
    crops = []
    for _ in range(count):
        height, width = rng.integers(1, image.height + 1), rng.integers(1, image.width + 1)
        top, left = rng.integers(0, image.height - height + 1), rng.integers(0, image.width - width + 1)
        crops.append(view_of((int(top), int(left), int(height), int(width))))
    return crops


def test_golden_views(render_on_device: Render) -> None:
    names = ["a.jpg", "b.png", "c.png", "d.jpg", "e.png", "f.webp"]
    images = [decode((GOLDEN / "replay" / name).read_bytes(), 10**9) for name in names]
    entries = [[entry for entry in INDEX["views"] if entry["image"] == name] for name in names]
    if not CUDA:
        entries = [own[:1] for own in entries]
    views = [[STANDARD.decode(entry["param_aug"]) for entry in own] for own in entries]
    expected = [Image.open(GOLDEN / "replay" / entry["view"]).convert("RGB") for own in entries for entry in own]
    assert np.array_equal(render_on_device(images, views, INDEX["crop_size"]), np.stack(expected))


@pytest.mark.parametrize("side", [1, 33])
def test_every_operation(render_on_device: Render, side: int) -> None:
    images, views = [], []
    for op in range(rand_augment.NUM_OPS):
        magnitudes = [3.0, 8.0] if op == rand_augment.POSTERIZE else [0.27, -0.9, 9.0, 178.5]
        images.append(noise(side, side, op))
        views.append([view_of((0, 0, side, side), ((op, value),)) for value in magnitudes])
    turns = [
        view_of((0, 0, side, side), ((rand_augment.ROTATE, value),)) for value in (90.0, -90.0, 180.0, 360.0, 450.0)
    ]
    flat = Image.new("RGB", (side, side), (7, 7, 9))
    stretched = [
        view_of((0, 0, side, side), ((op, 0.5),))
        for op in (rand_augment.AUTO_CONTRAST, rand_augment.EQUALIZE, rand_augment.CONTRAST)
    ]
    images, views = [*images, noise(side, side, 99), flat], [*views, turns, stretched]
    assert np.array_equal(render_on_device(images, views, side), by_host(images, views, side))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_of_any_shape(render_on_device: Render, interpolation: Interpolation) -> None:
    rng = np.random.default_rng(0)
    sizes = [(90, 60), (40, 300), (300, 40), (32, 32), (1, 50), (200, 3)]
    images = [noise(*size, seed) for seed, size in enumerate(sizes)]
    views = [random_crops(2000 if CUDA else 3, image, rng) for image in images]
    recipe = recipe_of(random_resized_crop={"interpolation": interpolation})
    assert np.array_equal(render_on_device(images, views, 32, recipe), by_host(images, views, 32, recipe))


def test_operations_follow_each_other_and_views_may_have_none(render_on_device: Render) -> None:
    image = noise(50, 40, 5)
    views = [
        [
            view_of((0, 0, 40, 50), ()),
            view_of((3, 4, 30, 20), ((5, 9.0), (13, 0.0), (9, -0.27))),
            view_of((1, 1, 9, 9), ((7, 0.27),)),
        ]
    ]
    assert np.array_equal(render_on_device([image], views, 24), by_host([image], views, 24))


@pytest.mark.gpu
def test_ten_thousand_drawn_views(render_on_device: Render) -> None:
    if not CUDA:
        pytest.skip("no GPU here, and ten thousand views in Triton's interpreter take hours")
    images = [noise(640, 480, 0), noise(333, 1000, 1), noise(1200, 180, 2), noise(500, 500, 3)]
    augmentation = Augmentation(num_views=2500)
    views = [draw(image.width, image.height, augmentation, 7, str(index)) for index, image in enumerate(images)]
    for start in range(0, 2500, 125):
        part = [own[start : start + 125] for own in views]
        with ThreadPoolExecutor(4) as threads:
            expected = list(threads.map(lambda pair: render(*pair, STANDARD, 224), zip(images, part, strict=True)))
        assert np.array_equal(render_on_device(images, part, 224), np.concatenate(expected))


def test_magnitudes_of_any_size(render_on_device: Render) -> None:
    image = noise(33, 33, 8)
    ops = [(rand_augment.POSTERIZE, magnitude) for magnitude in (1.0, 8.9)]
    ops += [(rand_augment.SOLARIZE, magnitude) for magnitude in (-1e9, 0.0, 255.5, 1e9)]
    ops += [(op, magnitude) for op in (rand_augment.BRIGHTNESS, rand_augment.COLOR) for magnitude in (-1e4, 1e9)]
    ops += [(op, magnitude) for op in (rand_augment.SHEAR_X, rand_augment.SHEAR_Y) for magnitude in (990.0, 1e300)]
    ops += [(op, -1e9) for op in (rand_augment.TRANSLATE_X, rand_augment.TRANSLATE_Y, rand_augment.ROTATE)]
    views = [[view_of((0, 0, 33, 33), (op,)) for op in ops]]
    assert np.array_equal(render_on_device([image], views, 33), by_host([image], views, 33))


def test_shears_beyond_fixed_point(render_on_device: Render) -> None:
    side = 256  # the least at which such a shear leaves pixels in the view
    images = [noise(side, side, 9)]
    views = [[view_of((0, 0, side, side), ((op, magnitude),)) for op, magnitude in ((1, 130.7), (2, -141.3))]]
    expected = by_host(images, views, side)
    assert expected[0].any()
    assert expected[1].any()
    assert np.array_equal(render_on_device(images, views, side), expected)


@pytest.mark.parametrize("bits", [0.0, 9.0])
def test_a_magnitude_that_cannot_be_applied_is_refused(render_on_device: Render, bits: float) -> None:
    with pytest.raises(ValueError, match=f"posterize keeps 1 to 8 bits, found {bits}"):
        render_on_device([noise(9, 9, 0)], [[view_of((0, 0, 9, 9), ((rand_augment.POSTERIZE, bits),))]], 9)


@pytest.mark.parametrize(
    "settings",
    [
        {"center_crop": {"size": 60}, "random_resized_crop": None},
        {"center_crop": {"size": 47}, "random_resized_crop": {"interpolation": "bilinear"}},
        {"random_crop": {"size": 45, "pad_if_needed": True}, "random_resized_crop": None},
        {"center_crop": {"size": 90}, "random_crop": {"size": 40}, "random_resized_crop": {}},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_boxes_that_lie_beyond_the_image(render_on_device: Render, settings: dict[str, Any]) -> None:
    recipe = recipe_of(**settings, rand_augment=None)
    images = [noise(50, 20, 3), noise(9, 70, 4), noise(46, 46, 5)]
    views = [
        [recipe.draw(*image.size, Stream(4, index, number)) for number in range(40 if CUDA else 2)]
        for index, image in enumerate(images)
    ]
    size = min(recipe.size, 45)
    assert np.array_equal(render_on_device(images, views, size, recipe), by_host(images, views, size, recipe))


def test_every_other_transform(render_on_device: Render) -> None:
    settings = {
        "random_horizontal_flip": {},
        "random_erase": {},
        "center_crop": {"size": 36},
        "random_crop": {"size": 34},
    }
    recipe = recipe_of(**settings)
    image = noise(50, 40, 6)
    view = (("random_crop", (1, 2)), ("random_resized_crop", (3, 4, 20, 25)))
    views = [
        (*view, ("random_horizontal_flip", True)),
        (*view, ("random_horizontal_flip", False), ("rand_augment", ((5, 9.0),)), ("random_erase", (5, 6, 7, 90))),
        (*view, ("random_horizontal_flip", True), ("rand_augment", ()), ("random_erase", (0, 0, 3, 2))),
        view,
        (),
    ]
    assert np.array_equal(render_on_device([image], [views], 24, recipe), by_host([image], [views], 24, recipe))


def test_a_crop_of_the_views_size_is_not_resized(render_on_device: Render) -> None:
    recipe = recipe_of(random_crop={"size": 40}, random_resized_crop=None, rand_augment=None, random_horizontal_flip={})
    image = noise(64, 52, 7)
    views = [[(("random_crop", (3, 9)), ("random_horizontal_flip", flip)) for flip in (False, True)]]
    cropped = np.asarray(image)[3:43, 9:49]
    assert np.array_equal(render_on_device([image], views, 40, recipe), [cropped, cropped[:, ::-1]])


def test_what_one_thread_planned_another_launches_and_again(render_on_device: Render) -> None:
    from dr_pipeline.views.device.render import plan

    image, device = noise(40, 30, 3), torch.device("cuda" if CUDA else "cpu")
    views = [random_crops(2, image, np.random.default_rng(2))]
    with ThreadPoolExecutor(1) as thread:
        planned = thread.submit(plan, [np.asarray(image)], views, STANDARD, 16, CUDA).result()
    assert planned.pixels.is_pinned() == planned.parameters.is_pinned() == CUDA
    for _ in range(2):
        assert np.array_equal(planned.launch(device).cpu().numpy(), by_host([image], views, 16))


@pytest.mark.gpu
def test_a_launch_does_not_wait_for_the_gpu() -> None:
    if not CUDA:
        pytest.skip("no GPU here, and nothing else runs beside the launching thread")
    from dr_pipeline.views.device.render import plan

    image, device, recipe = noise(40, 30, 3), torch.device("cuda"), recipe_of(random_erase={})
    views = [recipe.draw(*image.size, Stream(5, number)) for number in range(200)]
    planned = plan([np.asarray(image)], [views], recipe, 16, pinned=True)
    planned.launch(device)  # the kernels are compiled
    torch.cuda.set_sync_debug_mode("error")
    try:
        planned.launch(device)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_images_without_views_and_no_views_at_all(render_on_device: Render) -> None:
    images, view = [noise(20, 10, 1), noise(10, 20, 2)], view_of((0, 0, 20, 10))
    assert np.array_equal(render_on_device(images, [[], [view]], 12), by_host(images[1:], [[view]], 12))
    assert render_on_device(images, [[], []], 12).shape == (0, 12, 12, 3)
    assert render_on_device([], [], 12).shape == (0, 12, 12, 3)


def test_what_has_no_kernel_is_refused(render_on_device: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(random_erase={})
    monkeypatch.setattr(RandomErase, "name", "mosaic")
    with pytest.raises(ValueError, match="mosaic is not rendered on the device, only random_horizontal_flip, "):
        render_on_device([noise(50, 40, 6)], [[()]], 24, recipe)
