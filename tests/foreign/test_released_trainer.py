"""What the released trainer makes of our config.json and param_aug: the pixels that our teachers saw."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms as T

from dr_pipeline.config.augmentation import (
    RandAugmentSettings,
    RandomCropSettings,
    RandomEraseSettings,
    RandomHorizontalFlipSettings,
    RandomResizedCropSettings,
)
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.render import render
from tests.conftest import GOLDEN, draw, make_job
from tests.foreign.released_trainer import Replay, defaults

NUM_VIEWS = 24

RECIPES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "1 op": {"rand_augment": {"num_ops": 1}},
    "3 ops": {"rand_augment": {"num_ops": 3}},
    "no ops": {"rand_augment": None},
    "magnitude": {"rand_augment": {"num_ops": 4, "magnitude": 5}},
    "bins": {"rand_augment": {"num_ops": 5, "magnitude": 7, "num_magnitude_bins": 8}},
    "one bin": {"rand_augment": {"num_ops": 2, "magnitude": 0, "num_magnitude_bins": 1}},
    "scale and ratio": {"random_resized_crop": {"scale": [0.3, 0.9], "ratio": [0.5, 2.0]}},
    "ops at times": {"rand_augment": {"p": 0.4}},
    "ranges of magnitudes": {
        "rand_augment": {"magnitudes": {"color": [-0.9, 0.9], "rotate": [0, 45], "posterize": [1, 8]}}
    },
    "flip": {"random_horizontal_flip": {}},
    "erase": {"random_erase": {"p": 0.8, "scale": [0.1, 0.4]}, "rand_augment": None},
    "random crop": {"random_crop": {"size": 24}, "random_resized_crop": None},
    "random crop with a border": {
        "random_crop": {"size": 300, "pad_if_needed": True},
        "random_horizontal_flip": {"p": 1},
    },
    "all that it replays": {
        "random_crop": {"size": 40},
        "random_horizontal_flip": {"p": 0.3},
        "rand_augment": {"p": 0.7, "num_ops": 1},
        "random_erase": {},
    },
    "bilinear": {"random_resized_crop": {"interpolation": "bilinear"}, "rand_augment": {"num_ops": 3}},
}


def config_of(job: Job, folder: Path) -> dict[str, Any]:
    """The config.json that a run leaves."""
    output = job.output.model_copy(update={"path": str(folder)})
    config = ConfigJson(job.model_copy(update={"output": output}))
    config.claim(force=False)
    config.write_teachers(job.teachers)
    config.write_totals(1, "ab")
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("name", ["a.jpg", "b.png"])
def test_it_replays_our_pixels(recipe: dict[str, Any], name: str, tmp_path: Path) -> None:
    job = make_job(augmentation={"num_views": NUM_VIEWS, **recipe})
    replay = Replay(config_of(job, tmp_path))
    image = Image.open(GOLDEN / "replay" / name).convert("RGBA").convert("RGB")
    views = draw(image.width, image.height, job.augmentation, 3, "k")
    ours = Recipe(job.augmentation)
    ours_NHWC = render(image, views, ours)
    stored = json.loads(json.dumps([ours.encode(view) for view in views]))
    differ = [
        index
        for index, entry in enumerate(stored)
        if not np.array_equal(np.asarray(replay.view(image, entry)), ours_NHWC[index])
    ]
    assert differ == []


REDRAWN = {name: recipe for name, recipe in RECIPES.items() if name not in ("random crop", "ranges of magnitudes")}


@pytest.mark.parametrize("recipe", REDRAWN.values(), ids=REDRAWN)
def test_it_draws_new_views_as_we_do(recipe: dict[str, Any], tmp_path: Path) -> None:
    """With teachers of its own beside the student it draws, and does not replay."""
    recipe_of_job = make_job(augmentation=recipe).augmentation
    drawn_by = Replay(config_of(make_job(augmentation=recipe), tmp_path)).drawn_by
    crop, ops = recipe_of_job.random_resized_crop, recipe_of_job.rand_augment
    assert drawn_by["crop"]["interpolation"].value == crop.interpolation
    assert list(drawn_by["crop"]["size"]) == [crop.size, crop.size]
    assert drawn_by["crop"]["scale"] == pytest.approx(crop.scale)
    assert drawn_by["crop"]["ratio"] == pytest.approx(crop.ratio)
    assert drawn_by["ops"] == (ops.model_dump(exclude={"p", "magnitudes"}) if ops else {})


def test_what_we_leave_out_is_its_default() -> None:
    ours_and_theirs = (
        (RandAugmentSettings, T.RandAugment, {"p", "magnitudes"}),  # p is 1 in its own class
        (RandomHorizontalFlipSettings, T.RandomHorizontalFlip, set()),
        (RandomEraseSettings, T.RandomErasing, set()),
        (RandomCropSettings, T.RandomCrop, {"size", "p"}),
    )
    for ours, transform, own in ours_and_theirs:
        fields = {name: field.default for name, field in ours.model_fields.items() if name not in own}
        assert {name: defaults(transform)[name] for name in fields} == fields
    theirs = defaults(T.RandAugment)
    assert theirs["interpolation"] == T.InterpolationMode.NEAREST
    assert theirs["fill"] is None
    theirs = defaults(T.RandomResizedCrop)
    assert theirs["scale"] == RandomResizedCropSettings().scale
    assert theirs["ratio"] == pytest.approx(RandomResizedCropSettings().ratio)


def test_the_standard_recipe_is_written_as_the_released_configs_write_it(tmp_path: Path) -> None:
    config = config_of(make_job(augmentation={"num_views": 30}), tmp_path)
    assert config["num_samples"] == 30  # views of an image
    assert config["reinforce"]["image_augmentation"]["rand_augment"] == {"enable": True, "p": 1.0}
    assert config["reinforce"]["image_augmentation"]["random_resized_crop"] == {
        "interpolation": "bicubic",
        "size": 24,
    }


def test_a_center_crop_is_more_than_it_replays(tmp_path: Path) -> None:
    replay = Replay(config_of(make_job(augmentation={"center_crop": {"size": 24}}), tmp_path))
    with pytest.raises(AttributeError, match="contiguous"):
        replay.view(Image.new("RGB", (40, 30)), [[0, 0, 9, 9], []])


@pytest.mark.parametrize("name", ["random_crop", "random_resized_crop"])
def test_a_crop_that_is_skipped_is_more_than_it_replays(name: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'p'"):
        Replay(config_of(make_job(augmentation={name: {"size": 24, "p": 0.5}}), tmp_path))
