"""Hugging Face's `datasets` loads what a run has written, whole, by the folder and by its tars."""

import os

os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # read when it is imported

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import disable_progress_bars, load_dataset, load_dataset_builder

from dr_pipeline.codecs import find_codec
from dr_pipeline.codecs.codec import to_float32
from dr_pipeline.runners.run import run
from tests.demo_job import Silent, demo_job, make_scenes
from tests.tars import group, read_members

disable_progress_bars()

FORMS = {
    "v2": [],
    "v2 npz": ["output.precision=float32"],
    "v1": ["output.layout=v1", "captioners.0.tag=null"],
    "v1 npz": ["output.layout=v1", "captioners.0.tag=null", "output.precision=float32"],
    "no images": ["output.images=omit"],
    "nulls and flips": ["augmentation.random_horizontal_flip={}", "augmentation.rand_augment.p=0.5"],
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=2, samples_per_shard=2)


@pytest.fixture(scope="module", params=FORMS.values(), ids=FORMS)
def output(request: pytest.FixtureRequest, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("output") / "made"
    run(demo_job(scenes, folder, *request.param), Silent())
    return folder


def stored(output: Path) -> dict[str, dict[str, bytes]]:
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(output.glob("*.tar")):
        with path.open("rb") as stream:
            samples |= dict(group(read_members(stream)))
    return samples


def assert_same(loaded: list[dict[str, Any]], samples: dict[str, dict[str, bytes]]) -> None:
    """Every sample with all of its members; embeddings and parameters without any rounding."""
    assert [sample["__key__"] for sample in loaded] == list(samples)
    for sample, fields in zip(loaded, samples.values(), strict=True):
        assert {name for name in sample if not name.startswith("__")} == set(fields)
        assert sample["txt"].encode() == fields["txt"]
        assert sample["syn.json"] == json.loads(fields["syn.json"])
        views = json.loads(fields["paug.json"])["param_aug"]
        assert ast.literal_eval(sample["paug.json"]["param_aug"]) == views
        assert sample["json"]["uid"] == json.loads(fields["json"])["uid"]
        codec = find_codec(fields)
        assert codec
        arrays = codec.decode(fields[codec.ext])
        assert sample[codec.ext].keys() == arrays.keys()
        for name, array in arrays.items():
            assert np.array_equal(np.array(sample[codec.ext][name], np.float32), to_float32(array))
        assert len(arrays["image_emb"]) == len(views)
        if "jpg" in fields:
            assert sample["jpg"].size[0] > 0


def test_the_folder_loads(output: Path, tmp_path: Path) -> None:
    samples = stored(output)
    assert_same(list(load_dataset(str(output), split="train", cache_dir=str(tmp_path))), samples)
    assert_same(list(load_dataset(str(output), split="train", streaming=True)), samples)


def test_the_tars_load_with_the_cards_features(output: Path, tmp_path: Path) -> None:
    features = load_dataset_builder(str(output), cache_dir=str(tmp_path)).info.features
    for streaming in (False, True):
        options = {"streaming": True} if streaming else {"cache_dir": str(tmp_path)}
        files = {"train": f"{output}/**/*.tar"}
        dataset = load_dataset("webdataset", data_files=files, features=features, split="train", **options)
        assert_same(list(dataset), stored(output))


def test_without_the_card_it_does_not(output: Path) -> None:
    """What the card is for; should this load one day, it needs no features."""
    with pytest.raises(Exception, match="mix list and non-list"):
        load_dataset("webdataset", data_files=f"{output}/*.tar", split="train", streaming=True)
