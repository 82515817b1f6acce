"""A crop is resized to Pillow's pixels, and sees nothing beyond its box."""

import numpy as np
import pytest
from PIL import Image

from dr_pipeline.config.augmentation import Interpolation
from dr_pipeline.views.render import resize_box


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels_HWC = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels_HWC)


def test_nothing_beyond_the_crop_is_seen() -> None:
    image = noise(60, 70)
    alone = image.crop((13, 11, 13 + 29, 11 + 31))
    expected = np.asarray(resize_box(alone, (0, 0, 31, 29), 40, "bicubic"))
    assert np.array_equal(np.asarray(resize_box(image, (11, 13, 31, 29), 40, "bicubic")), expected)


def test_what_lies_beyond_the_image_is_black() -> None:
    image = noise(20, 30)
    padded = Image.new("RGB", (40, 40))
    padded.paste(image, (6, 9))
    expected = np.asarray(padded.resize((24, 24), Image.Resampling.BILINEAR))
    assert np.array_equal(np.asarray(resize_box(image, (-9, -6, 40, 40), 24, "bilinear")), expected)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_crop_of_the_views_size_is_untouched(interpolation: Interpolation) -> None:
    image = noise(50, 60)
    pixels_HWC = np.asarray(resize_box(image, (4, 5, 32, 32), 32, interpolation))
    assert np.array_equal(pixels_HWC, np.asarray(image)[4:36, 5:37])
