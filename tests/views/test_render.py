"""Rendering reproduces the contract's golden views, and torchvision, to the last bit."""

import hashlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import autoaugment
from torchvision.transforms.functional import InterpolationMode

from dr_pipeline.dataset.sample import IMAGE_EXTS
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.rand_augment import NUM_OPS, op_magnitude
from dr_pipeline.views.render import FORMATS, decode, pixels_of, render, render_center
from tests.conftest import GOLDEN, STANDARD, recipe_of, view_of

INDEX = json.loads((GOLDEN / "replay" / "index.json").read_text())
NO_LIMIT = 10**9


def test_the_members_that_are_taken_for_images_are_those_that_are_decoded() -> None:
    Image.init()
    forms = {ext.removeprefix("."): form for ext, form in Image.registered_extensions().items()}
    assert set(IMAGE_EXTS) == {ext for ext, form in forms.items() if form in FORMATS}
    assert IMAGE_EXTS[:4] == ("jpg", "png", "jpeg", "webp")  # what the contract's consumers look for, in their order
    for ext in IMAGE_EXTS:
        buffer = io.BytesIO()
        Image.new("F" if ext == "pfm" else "RGB", (8, 6)).save(buffer, forms[ext])
        assert decode(buffer.getvalue(), NO_LIMIT).size == (8, 6), ext


@pytest.mark.parametrize("entry", INDEX["views"], ids=lambda entry: entry["view"])
def test_golden_views_are_identical(entry: dict) -> None:
    image = decode((GOLDEN / "replay" / entry["image"]).read_bytes(), NO_LIMIT)
    view = STANDARD.decode(json.loads(json.dumps(entry["param_aug"])))
    pixels_HWC = render(
        image, [view], recipe_of(random_resized_crop={"interpolation": INDEX["interpolation"]}), INDEX["crop_size"]
    )[0]
    assert hashlib.sha256(pixels_HWC.tobytes()).hexdigest() == entry["rgb_sha256"]
    expected = np.asarray(Image.open(GOLDEN / "replay" / entry["view"]).convert("RGB"))
    assert np.array_equal(pixels_HWC, expected)


@pytest.mark.parametrize("op", range(NUM_OPS))
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("side", [1, 2, 61])
def test_every_operation_equals_torchvision(op: int, sign: int, side: int) -> None:
    names = ["Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
             "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"]  # fmt: skip
    image = Image.fromarray(np.random.default_rng(op).integers(0, 256, (side, side, 3), dtype=np.uint8))
    space = autoaugment.RandAugment()._augmentation_space(31, (side, side))
    magnitudes, signed = space[names[op]]
    for level in (0, 9, 30):
        magnitude = float(magnitudes[level]) if magnitudes.ndim else 0.0
        magnitude *= sign if signed else 1
        expected = autoaugment._apply_op(image, names[op], magnitude, InterpolationMode.NEAREST, None)
        view = view_of((0, 0, side, side), ((op, magnitude),))
        assert np.array_equal(render(image, [view], STANDARD, side)[0], np.asarray(expected))


def test_magnitudes_are_torchvisions() -> None:
    from dr_pipeline.config.augmentation import RandAugmentSettings

    names = {1: "ShearX", 3: "TranslateX", 5: "Rotate", 6: "Brightness", 10: "Posterize", 11: "Solarize"}
    for side in (96, 224, 384):
        space = autoaugment.RandAugment()._augmentation_space(31, (side, side))
        for op, name in names.items():
            for level in range(31):
                ours = op_magnitude(op, RandAugmentSettings(magnitude=level), side)
                assert ours == space[name][0][level].to(torch.float64).item(), (name, side, level)


def test_captioner_sees_the_centre() -> None:
    image = Image.new("RGB", (300, 100), "white")
    image.paste((255, 0, 0), (100, 0, 200, 100))
    assert np.array_equal(render_center(image, 100), np.asarray(image.crop((100, 0, 200, 100))))
    assert render_center(Image.new("RGB", (7, 900)), 64).shape == (64, 64, 3)
    assert render_center(Image.new("RGB", (1_000_000, 1)), 224).shape == (224, 224, 3)  # whole, it would be 150 GB


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty image"),
        (b"<html>not found</html>", "corrupt image"),
        ("cut", "corrupt image"),
        ("bomb", "image too large"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "corrupt image"),
    ],
)
def test_bad_images_are_skipped_with_a_reason(data: bytes | str, reason: str) -> None:
    whole = (GOLDEN / "replay" / "a.jpg").read_bytes()
    if data == "cut":
        data = whole[: len(whole) // 2]
    with pytest.raises(SampleSkipped) as caught:
        decode(whole, 1000) if data == "bomb" else decode(data, NO_LIMIT)
    assert caught.value.reason == reason
    assert "Ghostscript" not in caught.value.detail  # Pillow would run it
    assert "0x" not in caught.value.detail  # an address would make the manifest differ from run to run


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (640, 480), (3000, 2000)])
def test_pixels_are_those_of_the_image_however_pillow_holds_them(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels = pixels_of(Image.fromarray(values))  # which nobody else holds
    assert (pixels == values).all()
    assert pixels.shape == values.shape
