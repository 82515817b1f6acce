"""The flags for the released trainer: shards, dims and scales of our config.json, and what flags cannot say."""

import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from braceexpand import braceexpand

from dr_pipeline.cli import main
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.errors import ConfigError
from dr_pipeline.report.trainer_flags import patterns, piped, trainer_flags
from dr_pipeline.storage import Storage
from tests.conftest import make_job, tar_bytes
from tests.tars import read_members
from tests.verification.datasets import write_dataset

DOCS = Path(__file__).parents[2] / "docs"


def written(folder: Path, **changes: Any) -> Path:
    """A dataset whose models say nothing but what their cards do."""
    teachers = [
        {"name": "one", "use": "lab:Clip", "dim": 3, "logit_scale": 70, "image_size": 16},
        {"name": "two", "use": "lab:Clip", "dim": 5, "logit_scale": 62.5, "image_size": 16},
    ]
    write_dataset(folder, teachers=teachers, **changes)
    return folder


def test_the_command_prints_what_the_trainer_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "my data")
    assert main(["trainer-flags", str(folder)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shlex.split(shown.out.replace("\\\n", "")) == [
        *("--dataset-type", "webdataset"),
        *("--train-data", f"{folder}/00/{{0..1}}.tar"),
        *("--train-num-samples", "6"),
        "--dataset-reinforcement",
        *("--dataset-reinforcement-config", f"{folder}/config.json"),
        *("--distill-teacher-dimension", "3", "5"),
        *("--distill-logit-scale", "70.0", "62.5"),
        *("--distill-loss-weights", "0.0", "1.0"),
        "--distill-average-after-softmax",
    ]


def test_the_docs_show_these_flags(tmp_path: Path) -> None:
    block = (DOCS / "foreign_trainers.md").read_text().split("```\n--", 1)[1].partition("```")[0]
    shown = [line.split()[0] for line in f"--{block}".splitlines()]
    flags = trainer_flags(str(written(tmp_path)), Storage()).flags
    assert shown == [flag.split()[0] for flag in flags]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"augmentation": {"random_resized_crop": {"interpolation": "bilinear"}}}, "the trainer's own is bicubic"),
        ({"augmentation": {"center_crop": {"size": 30}}}, "center_crop does not take Pillow's images"),
        ({"augmentation": {"random_crop": {"size": 30, "p": 0.5}}}, "random_crop has a p below 1"),
        ({"augmentation": {"random_resized_crop": {"p": 0.5}}}, "random_resized_crop has a p below 1"),
        ({"augmentation": {"random_resized_crop": None, "random_crop": {"size": 24}}}, "the views are not resized"),
        ({"output": {"images": "omit"}}, "hold no images"),
        ({"output": {"layout": "v1"}}, "one logit scale for all teachers"),
    ],
)
def test_what_the_trainer_would_do_otherwise_is_told(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    (remark,) = trainer_flags(str(written(tmp_path, **changes)), Storage()).remarks
    assert told in remark


def test_images_that_the_trainer_does_not_look_for_are_told(tmp_path: Path) -> None:
    folder = written(tmp_path)
    shard = folder / "00/0.tar"
    members = list(read_members(io.BytesIO(shard.read_bytes())))
    shard.write_bytes(tar_bytes((name.replace("0.jpg", "0.gif"), data) for name, data in members))
    (remark,) = trainer_flags(str(folder), Storage()).remarks
    assert remark == (
        f"1 of the first 3 samples of {shard} have no image that the trainer takes, jpg, png, jpeg, webp: it leaves "
        "such samples out"
    )


def test_a_name_that_a_shell_would_read_otherwise_is_quoted_for_both(tmp_path: Path) -> None:
    folder = written(tmp_path / "a{b,c} d")
    (train_data,) = [flag for flag in trainer_flags(str(folder), Storage()).flags if flag.startswith("--train-data ")]
    assert list(braceexpand(shlex.split(train_data)[1])) == [f"{folder}/00/0.tar", f"{folder}/00/1.tar"]
    assert piped("s3://b/{00..01}.tar") == "pipe:aws s3 cp s3://b/{00..01}.tar -"
    assert piped("s3://b/a (1)/{0..1}.tar") == "pipe:aws s3 cp 's3://b/a (1)/{0..1}.tar' -"


def test_shards_in_a_bucket_are_piped(tmp_path: Path) -> None:
    root = "memory://flags/set"
    storage = Storage()
    for path in written(tmp_path).rglob("*"):
        if path.is_file():
            storage.write(f"{root}/{path.relative_to(tmp_path)}", path.read_bytes())
    shown = trainer_flags(root, storage)
    assert f"--train-data '{root}/00/{{0..1}}.tar'" in shown.flags
    assert "--dataset-reinforcement-config config.json" in shown.flags
    assert f"copy {root}/config.json" in shown.remarks[0]


NAMES = [
    *(f"a/{number:03}.tar" for number in range(12)),
    "a/013.tar",
    "a/9998.tar",
    "a/9999.tar",
    "b/000.tar",
    "b{1,2}\\/5.tar",
    "no number.tar",
    *(f"z{number}.tar" for number in (8, 9, 10, 11)),
]


def test_patterns_stand_for_exactly_the_names_that_are_there() -> None:
    found = patterns(NAMES)
    assert found[:3] == ["a/{000..011}.tar", "a/013.tar", "a/{9998..9999}.tar"]
    assert found[-2:] == ["z{8..9}.tar", "z{10..11}.tar"]
    assert [name for pattern in found for name in braceexpand(pattern)] == NAMES


def test_a_dataset_that_does_not_say_enough_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not say which teachers"):
        trainer_flags(str(tmp_path), Storage())
    (tmp_path / "config.json").write_text(json.dumps({"model_name": "a", "num_samples": 30}))
    with pytest.raises(ConfigError, match="does not say which teachers"):
        trainer_flags(str(tmp_path), Storage())
    job = make_job(output={"path": str(tmp_path / "new")}, teachers=[{"name": "one", "use": "lab:Clip"}])
    ConfigJson(job).claim(force=False)
    with pytest.raises(ConfigError, match="no model was loaded yet, so the dims of one"):
        trainer_flags(job.output.path, Storage())
    job = make_job(output={"path": str(tmp_path / "empty")})
    ConfigJson(job).claim(force=False)
    with pytest.raises(ConfigError, match="no shard here"):
        trainer_flags(job.output.path, Storage())
