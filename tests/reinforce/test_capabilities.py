"""A job with teachers of images and texts, of images alone and of texts alone, from its run to a student's batch."""

import json
from pathlib import Path

import numpy as np
import pytest

from dr_pipeline.cli import main
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.card_features import features_of
from dr_pipeline.dataset.sample import IMAGE, TEXT, Column, Sample
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from dr_pipeline.verification.verify import verify
from tests.demo_job import Silent, demo_job, make_scenes
from tests.training.data.loading import make_loader, train_job

PLUGINS = """
import torch
from dr_pipeline.models.protocol import TeacherSpec

class Colours:  # images alone
    def __init__(self, device):
        self.spec = TeacherSpec(dim=3, image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def encode_images(self, images_BCHW):
        return images_BCHW.mean(dim=(2, 3)) + 0.01

class Letters:  # texts alone
    def __init__(self, device):
        self.spec = TeacherSpec(dim=2)

    def encode_texts(self, texts):
        return torch.tensor([[1.0 + len(text), 1.0 + text.count("a")] for text in texts])
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capabilities")
    (folder / "kinds.py").write_text(PLUGINS)
    scenes = make_scenes(folder / "in", num_shards=1, samples_per_shard=4)
    card = {"card": "package://dr_pipeline.demo/cards/scene_clip_a.yaml"}
    teachers = [{"name": "letters", "use": "kinds:Letters"}, {"name": "colours", "use": "kinds:Colours"}, card]
    job = demo_job(scenes, folder / "out", f"teachers={json.dumps(teachers)}", f"plugin_dirs=[{folder}]")
    assert not run(job, Silent()).failed
    return folder / "out"


def samples(output: Path) -> list[Sample]:
    with next(output.glob("*.tar")).open("rb") as stream:
        return list(read_samples(stream))


def test_each_teacher_has_columns_of_what_it_encodes(output: Path) -> None:
    for sample in samples(output):
        layout.decode(sample, dims={"scene_clip_a": 64})
        (key,) = sample.synthetic
        assert {column: array.shape[1] for column, array in sample.columns.items()} == {
            **{Column("scene_clip_a", of): 64 for of in (IMAGE, TEXT, key)},
            Column("colours", IMAGE): 3,
            **{Column("letters", of): 2 for of in (TEXT, key)},
        }
        for array in sample.columns.values():
            np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, atol=1e-2)


@pytest.mark.parametrize("paired", [True, False])
def test_the_dataset_s_card_declares_the_arrays_that_there_are(paired: bool, output: Path) -> None:
    job = demo_job(output, output)
    (key,) = (card.caption_key for card in job.captioners)
    teachers = [{"name": "letters", "encodes": ["texts"]}, {"name": "colours", "encodes": ["images"]}]
    features = features_of(job, {"teachers": [*teachers, *[{"name": "clip"}] * paired]}, None)
    (arrays,) = ([part["name"] for part in one["struct"]] for one in features if one["name"] == "pth.gz")
    side_by_side = ["image_emb", "text_emb", f"{key}_emb"] if paired else []
    assert arrays == [*side_by_side, "text_emb_letters", f"{key}_emb_letters", "image_emb_colours"]


def test_config_json_says_what_each_teacher_encodes(output: Path) -> None:
    config = json.loads((output / "config.json").read_bytes())
    teachers = {teacher["name"]: teacher for teacher in config["dr_pipeline"]["teachers"]}
    assert [teachers[name].get("encodes") for name in ("letters", "colours", "scene_clip_a")] == [
        ["texts"],
        ["images"],
        None,
    ]
    normalize = config["reinforce"]["image_augmentation"]["normalize"]
    assert normalize == {name: teachers["scene_clip_a"][name] for name in ("mean", "std")}


def test_verify_and_inspect_take_the_dataset(output: Path) -> None:
    assert verify(str(output), Storage()).problems == []
    assert main(["verify", str(output), "--deep", "--samples", "2"]) == 0
    assert main(["inspect", str(output), "--count", "1"]) == 0


def test_a_student_reads_the_dataset(output: Path) -> None:
    batch = next(iter(make_loader(train_job(output), batch_size=2)))
    assert batch.images_BHWC.shape[0] == 2
