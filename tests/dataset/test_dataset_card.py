"""The dataset's card: what a run writes of itself for people, and for the tools that read its head."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from dr_pipeline.dataset import dataset_card
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from dr_pipeline.verification.verify import verify
from tests.conftest import make_sample_members, write_tar
from tests.demo_job import Silent, demo_job, make_scenes

SECRET = "CANARY-f00d"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=2, samples_per_shard=2)


@pytest.fixture(scope="module")
def output(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "output"
    run(demo_job(scenes, folder), Silent())
    return folder


def head(card: Path) -> dict[str, Any]:
    return yaml.safe_load(card.read_text().split("---\n")[1])


def features(card: Path) -> dict[str, Any]:
    return {feature.pop("name"): feature for feature in head(card)["dataset_info"]["features"]}


def test_it_says_what_is_there_made_of_what_and_how(output: Path) -> None:
    text = (output / "README.md").read_text()
    for words in (
        "# quickstart",
        "| samples | 4 |",
        "| views | 12 |",
        "| synthetic captions | 8 |",
        "| shards | 2 |",
        "| teacher | scene_clip_a | 64 | 64 | 16.39 | Apache-2.0 | python examples/scenes/train_teachers.py |",
        "| captioner | scene_coca |",
        "RandAugment: 2 operations, magnitude 9 of 31 bins",
        "2 captions an image in `syn_text_scene_coca` by scene_coca: top_p",
        'load_dataset("FOLDER"',
        "dr-pipeline trainer-flags FOLDER",
    ):
        assert words in text
    assert str(output) not in text
    assert head(output / "README.md")["configs"][0]["data_files"] == [{"split": "train", "path": "**/*.tar"}]


def test_its_features_are_those_of_the_samples(output: Path) -> None:
    declared = features(output / "README.md")
    assert list(declared) == ["jpg", "json", "txt", "syn.json", "paug.json", "pth.gz", "__key__", "__url__"]
    assert declared["paug.json"] == {"struct": [{"name": "param_aug", "dtype": "string"}]}
    assert declared["syn.json"] == {"struct": [{"name": "syn_text_scene_coca", "list": "string"}]}
    assert {"name": "uid", "dtype": "string"} in declared["json"]["struct"]
    assert [part["name"] for part in declared["pth.gz"]["struct"]] == [
        "image_emb",
        "text_emb",
        "syn_text_scene_coca_emb",
    ]


def test_members_of_all_kinds_are_declared_or_left_out(tmp_path: Path) -> None:
    """Other images, texts and objects have features; of the rest `datasets` makes what it will."""
    more = {"mask_png": b"x", "url_txt": b"u", "cls": b"3", "list_json": b"[1]", "syn_json": b'{"syn_text_old": ["x"]}'}
    more["syn_txt"] = b"not syn.json"
    members = make_sample_members("a", **more) + [(f"b{name}", data) for name, data in make_sample_members("")]
    write_tar(tmp_path / "in/0.tar", [(name.replace("bjpg", "b.png"), data) for name, data in members])
    run(demo_job(tmp_path / "in", tmp_path / "out", "augmentation.num_views=2", "errors.max_skipped=1"), Silent())
    declared = features(tmp_path / "out/README.md")
    assert list(declared)[:7] == ["jpg", "mask.png", "json", "list.json", "syn.txt", "txt", "url.txt"]
    assert "cls" not in declared
    assert [part["name"] for part in declared["syn.json"]["struct"]] == ["syn_text_scene_coca", "syn_text_old"]


def test_the_same_dataset_has_the_same_card(output: Path, scenes: Path, tmp_path: Path) -> None:
    for shards in (f"{scenes}/00001.tar", scenes):  # the second run goes on with the first's output
        run(demo_job(shards, tmp_path, f"input.root={scenes}", "input.storage={}"), Silent())
    grown = (tmp_path / "README.md").read_text()
    assert "| samples | 4 |" in grown
    fingerprints = {path.name: next((path / "reports").iterdir()).name for path in (output, tmp_path)}
    body = grown.replace(fingerprints[tmp_path.name], fingerprints[output.name]).rpartition("<!--")[0]
    assert body == (output / "README.md").read_text().rpartition("<!--")[0]


def test_what_people_write_into_it_stays(
    output: Path, scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(output, tmp_path / "copy")
    card = copy / "README.md"
    assert verify(str(copy), Storage()).remarks == []
    edited = card.read_text().replace("# quickstart", "# Scenes of mine\n\nCC-BY")
    card.write_text(edited)
    with caplog.at_level(logging.WARNING):
        run(demo_job(scenes, copy), Silent())
    assert card.read_text() == edited
    assert "move it away to have it written anew" in caplog.text
    found = verify(str(copy), Storage())
    assert found.problems == []
    assert "README.md was changed since a run wrote it" in found.remarks[0]
    card.unlink()
    run(demo_job(scenes, copy), Silent())
    assert card.read_bytes() == (output / "README.md").read_bytes()


def test_cards_cannot_break_out_of_its_tables_or_show_secrets(scenes: Path, tmp_path: Path) -> None:
    licence = f"a|b\n# <script> https://u:{SECRET}@h/?token={SECRET}"
    job = demo_job(scenes, tmp_path, 'name="x\\n---\\ny: [1"')
    teachers = (job.teachers[0].model_copy(update={"licence": licence, "source": None}), *job.teachers[1:])
    run(job.model_copy(update={"teachers": teachers}), Silent())
    text = (tmp_path / "README.md").read_text()
    assert head(tmp_path / "README.md")["pretty_name"] == "x --- y: [1"
    assert "| a\\|b # &lt;script> https://u:***@h/?token=*** |  |" in text
    assert SECRET not in text
    assert "&id" not in text  # an alias of YAML's, which `datasets` takes for what it has already taken apart


def test_it_says_what_a_captioner_was_asked(scenes: Path, tmp_path: Path) -> None:
    job = demo_job(scenes, tmp_path)
    (captioner,) = job.captioners
    asked = captioner.model_copy(update={"prompt": "Name what is\n<b>here</b>: {alt_text}"})
    job = job.model_copy(update={"captioners": (asked,)})
    recipe = dataset_card._recipe(job, {"teachers": [], "fingerprint": "0"})
    (line,) = (line for line in recipe if "captions an image" in line)
    assert line.endswith(" tokens, asked “Name what is &lt;b>here&lt;/b>: {alt_text}”")
