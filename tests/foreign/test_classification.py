"""The reader on the page of classification, which knows nothing of this package, makes the pixels of this package."""

import os

os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # read when it is imported

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset

from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.config_json import read_config
from dr_pipeline.dataset.sample import IMAGE, PROBS_INDICES, PROBS_VALUES, Column
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from dr_pipeline.views.mixing import pair_of
from dr_pipeline.views.recipe import read_recipe
from dr_pipeline.views.render import decode, render
from tests.commands import documented
from tests.demo_job import QUICKSTART, REPOSITORY, Silent, make_scenes

PAGE = REPOSITORY / "docs/classification.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's command has run."""
    folder = tmp_path_factory.mktemp("page")
    make_scenes(folder / "outputs/scenes", num_shards=1, samples_per_shard=6)
    (words,) = [words for words in documented(PAGE, "dr-pipeline") if words[1] == "run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert not run(load(QUICKSTART, Job, words[3:]), Silent()).failed
    return folder


def test_another_trainers_reader_makes_the_same_views_and_targets(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    reader: dict[str, Any] = {}
    exec(PAGE.read_text().partition("```python\n")[2].partition("```")[0], reader)

    theirs = list(reader["read"]("outputs/classified/00000.tar", 1000))
    config = read_config("outputs/classified", Storage())
    recipe, num_mixed, images = read_recipe(config), 0, {}
    with Path("outputs/classified/00000.tar").open("rb") as stream:
        for sample in read_samples(stream):
            layout.decode(sample, recipe)
            images[sample.index] = decode(sample.image, 1 << 20)
            values, indices = (sample.columns[Column(name, IMAGE)] for name in (PROBS_VALUES, PROBS_INDICES))
            for row, view_HWC in enumerate(render(images[sample.index], sample.views, recipe, pairs=images)):
                view, target = theirs.pop(0)
                np.testing.assert_array_equal(view.permute(1, 2, 0), view_HWC)
                np.testing.assert_array_equal(target[indices[row]], values[row])
            num_mixed += sum(pair_of(view) is not None for view in sample.views)
    assert not theirs
    assert num_mixed > 5
    assert {teacher["dim"] for teacher in config["dr_pipeline"]["teachers"]} == {1000}


def test_hugging_faces_datasets_loads_it(folder: Path, tmp_path: Path) -> None:
    loaded = list(load_dataset(str(folder / "outputs/classified"), split="train", cache_dir=str(tmp_path)))
    with (folder / "outputs/classified/00000.tar").open("rb") as stream:
        for sample, row in zip(read_samples(stream), loaded, strict=True):
            layout.decode_columns(sample)
            arrays = row["pth.gz"]
            np.testing.assert_array_equal(arrays["image_probs_indices"], sample.columns[Column(PROBS_INDICES, IMAGE)])
            assert np.shape(arrays["image_probs_values"]) == (4, 10)
            assert (
                ast.literal_eval(row["paug.json"]["param_aug"]) == json.loads(sample.members["paug.json"])["param_aug"]
            )
