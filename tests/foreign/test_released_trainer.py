"""What the released trainer makes of our config.json and param_aug: the pixels that our teachers saw."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms as T

from dr_pipeline.config import Job, RandAugment, RandomResizedCrop
from dr_pipeline.shards.ledger import Ledger
from dr_pipeline.views import params
from dr_pipeline.views.render import render
from tests.conftest import GOLDEN, make_job
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
    "bilinear": {"random_resized_crop": {"interpolation": "bilinear"}, "rand_augment": {"num_ops": 3}},
}


def config_of(job: Job, folder: Path) -> dict[str, Any]:
    """The config.json that a run leaves."""
    output = job.output.model_copy(update={"path": str(folder)})
    ledger = Ledger(job.model_copy(update={"output": output}))
    ledger.open(force=False)
    ledger.record_teachers(job.teachers)
    ledger.record_totals(1, "ab")
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("name", ["a.jpg", "b.png"])
def test_it_replays_our_pixels(recipe: dict[str, Any], name: str, tmp_path: Path) -> None:
    job = make_job(augmentation={"num_views": NUM_VIEWS, **recipe})
    replay = Replay(config_of(job, tmp_path))
    image = Image.open(GOLDEN / "replay" / name).convert("RGBA").convert("RGB")
    views = params.draw(image.width, image.height, job.augmentation, 3, "k")
    crop = job.augmentation.random_resized_crop
    ours_NHWC = render(image, views, crop.size, crop.interpolation, crop.resampler)
    stored = json.loads(json.dumps([params.encode(view, job.augmentation) for view in views]))
    differ = [
        index
        for index, entry in enumerate(stored)
        if not np.array_equal(np.asarray(replay.view(image, entry)), ours_NHWC[index])
    ]
    assert differ == []


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_it_draws_new_views_as_we_do(recipe: dict[str, Any], tmp_path: Path) -> None:
    """With teachers of its own beside the student it draws, and does not replay."""
    recipe_of_job = make_job(augmentation=recipe).augmentation
    drawn_by = Replay(config_of(make_job(augmentation=recipe), tmp_path)).drawn_by
    crop, ops = recipe_of_job.random_resized_crop, recipe_of_job.rand_augment
    assert drawn_by["crop"]["interpolation"].value == crop.interpolation
    assert list(drawn_by["crop"]["size"]) == [crop.size, crop.size]
    assert drawn_by["crop"]["scale"] == pytest.approx(crop.scale)
    assert drawn_by["crop"]["ratio"] == pytest.approx(crop.ratio)
    assert drawn_by["ops"] == (ops.model_dump() if ops else {})


def test_what_we_leave_out_is_its_default() -> None:
    theirs = defaults(T.RandAugment)
    assert {name: theirs[name] for name in RandAugment.model_fields} == RandAugment().model_dump()
    assert theirs["interpolation"] == T.InterpolationMode.NEAREST
    assert theirs["fill"] is None
    theirs = defaults(T.RandomResizedCrop)
    assert theirs["scale"] == RandomResizedCrop().scale
    assert theirs["ratio"] == pytest.approx(RandomResizedCrop().ratio)


def test_the_standard_recipe_is_written_as_the_released_configs_write_it(tmp_path: Path) -> None:
    config = config_of(make_job(augmentation={"num_views": 30}), tmp_path)
    assert config["num_samples"] == 30  # views of an image
    assert config["reinforce"]["image_augmentation"]["rand_augment"] == {"enable": True, "p": 1.0}
    assert config["reinforce"]["image_augmentation"]["random_resized_crop"] == {
        "interpolation": "bicubic",
        "size": 24,
    }
