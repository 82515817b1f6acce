"""Training is reproducible: a few steps of the recipes, twice, end in the same bytes, and the loss goes down."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluate_models import FOLDER, load
from safetensors.torch import load_file
from train_teachers import CAPTIONER, CAPTIONER_EYES, TEACHERS, learning_rate, prepare, train_captioner, train_teacher
from training_data import SIDE, crop_box, render_scenes


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    render_scenes(folder, 48, processes=1)
    return folder


def losses_of(text: str) -> dict[str, list[float]]:
    """The losses that a training printed, by its label."""
    losses: dict[str, list[float]] = {}
    for label, loss in re.findall(r"^(.*) step \d+ loss (\S+)", text, re.MULTILINE):
        losses.setdefault(label, []).append(float(loss))
    return losses


def test_short_trainings_repeat_and_learn(data_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    teacher = replace(TEACHERS[0], warmup_steps=5, num_steps=5, batch_size=16)
    captioner = replace(CAPTIONER, num_steps=5, batch_size=16)
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        train_teacher(teacher, data_folder, tmp_path / run)
        train_captioner(captioner, data_folder, tmp_path / run)
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == ["scene_clip_a.safetensors", "scene_coca.safetensors"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    losses = losses_of(capfd.readouterr().out)
    assert losses.keys() == {"scene_clip_a warm-up", "scene_clip_a captions", "scene_coca"}
    for first, last, *again in losses.values():
        assert last < first
        assert again == [first, last]


def test_the_captioner_sees_through_the_first_teacher():
    captioner, teacher = (load_file(FOLDER / f"{name}.safetensors") for name in (CAPTIONER.name, CAPTIONER_EYES))
    eyes = {key: value for key, value in teacher.items() if key.startswith("visual.")}
    assert len(eyes) > 20
    for key, value in eyes.items():
        assert captioner[key.replace("visual.", "visual.trunk.", 1)].equal(value), key
    assert load(CAPTIONER.name)[1] == load(CAPTIONER_EYES)[1], "the same eyes need the same preprocessing"


def test_crops_keep_the_stated_area_and_shape():
    rng = np.random.default_rng(0)
    for aspect in (0.7, 1.0, 1.4):
        for _ in range(200):
            left, top, right, bottom = crop_box(aspect, 0.2, rng)
            assert 0 <= left < right <= SIDE + 1e-9
            assert 0 <= top < bottom <= SIDE + 1e-9
            assert (right - left) * (bottom - top) / SIDE**2 > 0.19
            assert 0.6 < (right - left) / (bottom - top) * aspect < 1.7


def test_a_batch_holds_every_scene_once_before_any_comes_again(data_folder: Path):
    recipe = replace(TEACHERS[0], batch_size=16)
    _, tokenizer, data = prepare(recipe, data_folder)
    batches = [data.draw_images() for _ in range(3)]
    assert all(images_BCHW.shape == (16, 3, 64, 64) for images_BCHW, _ in batches)
    assert sorted(np.concatenate([indices_B for _, indices_B in batches])) == list(range(48))
    assert data.draw_captions(batches[0][1]).shape == (16, tokenizer.context_length)


def test_the_learning_rate_rises_and_ends_at_zero():
    rates = [learning_rate(1e-3, step, 1000) for step in range(1000)]
    assert rates[0] < 5e-5
    assert max(rates) == pytest.approx(1e-3, rel=0.02)
    assert rates[-1] < 1e-6
