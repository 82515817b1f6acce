"""Training is reproducible: a few steps of each recipe, twice, end in the same bytes, and the loss goes down."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dr_pipeline.demo.train_teachers import RECIPES, Recipe, learning_rate, train
from dr_pipeline.demo.training_data import SIDE, SceneArrays, render_scenes


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    render_scenes(folder, 48, processes=1)
    return folder


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_short_training_repeats_and_learns(
    recipe: Recipe, data_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    short = replace(recipe, warmup_steps=4, caption_steps=6, batch_size=16)
    weights = []
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        train(short, data_folder, tmp_path / run)
        weights.append((tmp_path / run / f"{recipe.name}.safetensors").read_bytes())
    assert weights[0] == weights[1]
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", capfd.readouterr().out)]
    warm_up_first, warm_up_last, captions_first, captions_last = losses[:4]
    assert warm_up_last < warm_up_first
    assert captions_last < captions_first
    assert [path.name for path in (tmp_path / "first").iterdir()] == [f"{recipe.name}.safetensors"]


def test_crops_keep_the_stated_area_and_shape(data_folder: Path):
    rng = np.random.default_rng(0)
    for aspect in (0.7, 1.0, 1.4):
        for _ in range(200):
            left, top, right, bottom = SceneArrays._box(aspect, 0.2, rng)
            assert 0 <= left < right <= SIDE + 1e-9
            assert 0 <= top < bottom <= SIDE + 1e-9
            assert (right - left) * (bottom - top) / SIDE**2 > 0.19
            assert 0.6 < (right - left) / (bottom - top) * aspect < 1.7
    crops_BHWC = SceneArrays(data_folder).crops(np.array([0, 1, 2]), 64, 0.2, rng)
    assert crops_BHWC.shape == (3, 64, 64, 3)
    assert crops_BHWC.dtype == np.uint8


def test_the_learning_rate_rises_and_ends_at_zero():
    rates = [learning_rate(1e-3, step, 1000) for step in range(1000)]
    assert rates[0] < 5e-5
    assert max(rates) == pytest.approx(1e-3, rel=0.02)
    assert rates[-1] < 1e-6
