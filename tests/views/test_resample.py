"""The two resamplers: how far apart they are, that neither reads beyond its crop, and what `fast` may not depend on."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dr_pipeline.config.augmentation import Interpolation, Resampler
from dr_pipeline.views.resample import Box, crops_of

INTERPOLATIONS: list[Interpolation] = ["bicubic", "bilinear"]

sides = st.integers(1, 90) | st.sampled_from([1, 2, 3, 47, 48, 49, 300])


def noise(height: int, width: int, seed: int = 0, levels: int = 256) -> Image.Image:
    """Random pixels; of 2 levels, black and white, which clip in every pass."""
    pixels_HWC = np.random.default_rng(seed).integers(0, levels, (height, width, 3)) * (255 // (levels - 1))
    return Image.fromarray(pixels_HWC.astype(np.uint8))


def resized(image: Image.Image, crop: Box, size: int, interpolation: Interpolation, resampler: Resampler) -> np.ndarray:
    return np.asarray(crops_of(image, size, interpolation, resampler)(crop))


def levels_apart(image: Image.Image, crop: Box, size: int, interpolation: Interpolation) -> np.ndarray:
    one, other = (resized(image, crop, size, interpolation, name).astype(int) for name in ("pillow", "fast"))
    return np.abs(one - other)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@given(height=sides, width=sides, size=sides, levels=st.sampled_from([2, 256]), seed=st.integers(0, 99))
def test_no_crop_of_any_shape_is_three_levels_off(
    interpolation: Interpolation, height: int, width: int, size: int, levels: int, seed: int
) -> None:
    image = noise(height + 5, width + 4, seed, levels)
    off = levels_apart(image, (2, 3, height, width), size, interpolation)
    assert off.shape == (size, size, 3)
    assert off.max() <= 2


@pytest.mark.parametrize(("interpolation", "per_million"), [("bicubic", 5), ("bilinear", 0.5)])
def test_one_level_is_rare_and_two_are_a_few_values_in_a_million(
    interpolation: Interpolation, per_million: int
) -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros(256, dtype=int)
    for seed in range(4):
        image = noise(480, 640, seed, levels=2)
        for _ in range(20):
            height, width = int(rng.integers(100, 480)), int(rng.integers(100, 640))
            off = levels_apart(image, (0, 0, height, width), 224, interpolation)
            counts += np.bincount(off.ravel(), minlength=256)
    assert 0 < counts[1] < 0.01 * counts.sum()
    assert counts[2:].sum() <= per_million * 1e-6 * counts.sum()


@pytest.mark.parametrize("resampler", ["pillow", "fast"])
def test_nothing_beyond_the_crop_is_seen(resampler: Resampler) -> None:
    image, crop = noise(60, 70), (11, 13, 31, 29)
    alone = image.crop((13, 11, 13 + 29, 11 + 31))
    expected = resized(alone, (0, 0, 31, 29), 40, "bicubic", resampler)
    assert np.array_equal(resized(image, crop, 40, "bicubic", resampler), expected)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_crop_of_the_views_size_is_untouched(interpolation: Interpolation) -> None:
    image = noise(50, 60)
    for resampler in ("pillow", "fast"):
        pixels_HWC = resized(image, (4, 5, 32, 32), 32, interpolation, resampler)  # type: ignore[arg-type]
        assert np.array_equal(pixels_HWC, np.asarray(image)[4:36, 5:37])


def fast_digest() -> str:
    """Of crops large and small, wide and high, each with both interpolations."""
    digest = hashlib.sha256()
    image = noise(500, 700)
    for crop in [(0, 0, 500, 700), (3, 4, 480, 200), (5, 6, 224, 224), (7, 8, 224, 600), (0, 0, 90, 80), (9, 9, 1, 1)]:
        for interpolation in INTERPOLATIONS:
            digest.update(resized(image, crop, 224, interpolation, "fast").tobytes())
    return digest.hexdigest()


def in_another_process(code: str, **environment: str) -> str:
    """What it prints."""
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


@pytest.mark.parametrize("instructions", ["default", "avx2"])
def test_fast_is_the_same_with_other_instructions(instructions: str) -> None:
    code = "from tests.views.test_resample import fast_digest; print(fast_digest())"
    assert in_another_process(code, ATEN_CPU_CAPABILITY=instructions) == fast_digest()


COUNT_THREADS = """
import os
import torch
from tests.views.test_resample import fast_digest
torch.set_num_threads(4)
before = len(os.listdir("/proc/self/task"))
fast_digest()
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="another kernel, which is divided"
)
def test_fast_starts_no_threads() -> None:
    # In each thread of a pool it would be a team of its own.
    assert in_another_process(COUNT_THREADS) == "0"
