"""What does not fit is said before the first step, with what to set; what a dataset says of itself is taken."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dr_pipeline.config.job import Job
from dr_pipeline.errors import PipelineError, ShardError
from dr_pipeline.training.data.training_set import open_training_set
from tests.conftest import tar_bytes
from tests.tars import Member, read_members
from tests.training.data.loading import GOLDEN_SHARDS, GOLDEN_TEACHERS, golden_job, train_job
from tests.verification.datasets import write_dataset


def rewrite_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Our own dataset: 2 shards of 3 samples, teachers of 3 and 5 dims."""
    write_dataset(tmp_path / "out")
    return tmp_path / "out"


def test_a_dataset_configures_its_student(folder: Path) -> None:
    dataset = open_training_set(train_job(folder))
    assert dataset.uris == (f"{folder}/00/0.tar", f"{folder}/00/1.tar")
    assert [(teacher.name, teacher.dim, teacher.logit_scale) for teacher in dataset.teachers] == [
        ("one", 3, 100.0),
        ("two", 5, 100.0),
    ]
    assert dataset.paired_dims == {"one": 3, "two": 5}
    assert (dataset.layout, dataset.num_samples) == ("v2", 6)
    assert (dataset.recipe.size, dataset.recipe.interpolation) == (24, "bicubic")


def test_a_damaged_table_of_shards_is_told_for_it_says_what_they_hold(folder: Path) -> None:
    table = folder / "manifest" / "shards.parquet"
    before = open_training_set(train_job(folder)).digest
    content = table.read_bytes()
    for damaged in (b"x", content[:40] + b"\xff" + content[41:]):
        table.write_bytes(damaged)
        with pytest.raises(ShardError, match=r"shards\.parquet is damaged: .*: copy it again, or have"):
            open_training_set(train_job(folder))
    table.unlink()
    assert open_training_set(train_job(folder)).digest != before, "as of another program's dataset"


def test_views_of_another_pillow_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_training_set(train_job(folder))
    open_training_set(golden_job(GOLDEN_SHARDS[0]))
    assert caplog.messages == []
    rewrite_config(folder, lambda config: config["dr_pipeline"].update(pillow="12.3.0"))
    open_training_set(train_job(folder))
    assert [message.startswith(f"{folder}: its views are those of Pillow 12.3.0") for message in caplog.messages] == [
        True
    ]


def test_the_released_configs_count_views_not_samples(folder: Path) -> None:
    """Theirs say 30, or 10, of every dataset: how many samples it has is not known."""
    released = {"interpolation": "bicubic", "size": 24}

    def release(config: dict[str, Any]) -> None:
        config.pop("dr_pipeline")
        config.update(num_samples=4, reinforce={"image_augmentation": {"random_resized_crop": released}})

    rewrite_config(folder, release)
    teachers = [{"name": "all", "dim": 8, "logit_scale": 5}]
    dataset = open_training_set(train_job(folder, data={"teachers": teachers}, schedule={"batch_size": 6}))
    assert (dataset.num_samples, dataset.recipe.size) == (None, 24)


@pytest.mark.parametrize(
    ("transforms", "named"),
    [
        ({"resize": {"size": 256}}, "resize"),
        ({"auto_augment": {}, "random_horizontal_flip": {}}, "auto_augment"),
        ({"random_crop": {"size": 24, "padding": 4}}, "random_crop.padding = 4"),
        ({"random_erase": {"value": "random"}}, "random_erase.value = random"),
        ({"rand_augment": {"interpolation": "bilinear"}}, "rand_augment.interpolation = bilinear"),
        ({"rand_augment": {"fill": 128}}, "rand_augment.fill = 128"),
        ({"resize": {"enable": False}, "mixup": {"enable": False}, "uint8": {}}, None),
        ({"random_horizontal_flip": {}, "random_erase": {"p": 0.25}, "center_crop": {"size": 224}}, None),
        ({"random_crop": {"size": 24, "pad_if_needed": True, "fill": 0}}, None),
        ({"rand_augment": {"enable": True, "p": 0.5, "num_ops": 3, "interpolation": "nearest"}}, None),
    ],
)
def test_views_of_transforms_that_are_not_replayed_are_refused(
    transforms: dict[str, Any], named: str | None, folder: Path
) -> None:
    rewrite_config(folder, lambda config: config["reinforce"]["image_augmentation"].update(transforms))
    if named is None:
        open_training_set(train_job(folder))
        return
    assert f"config.json: the views were made with {named}, which is not replayed here" in refusal(folder)


def test_part_of_a_dataset_has_an_unknown_size(folder: Path) -> None:
    assert open_training_set(train_job(folder / "00" / "0.tar", data={"teachers": [
        {"name": "all", "dim": 8, "logit_scale": 5}]})).num_samples is None  # fmt: skip


def test_the_job_wins_over_config_json(folder: Path) -> None:
    teachers = [{"name": "all", "dim": 8, "logit_scale": 5}]
    assert [teacher.name for teacher in open_training_set(train_job(folder, data={"teachers": teachers})).teachers] == [
        "all"
    ]


def test_what_is_not_read_is_not_asked_for() -> None:
    for changes in ({"distillation": {"weight": 0}}, {"objective": "coca"}):
        dataset = open_training_set(train_job(GOLDEN_SHARDS[0], **changes))
        assert dataset.teachers == ()
        assert dataset.layout is None


@pytest.mark.parametrize("shard", GOLDEN_SHARDS, ids=lambda path: path.stem)
def test_golden_shards_open(shard: Path) -> None:
    dataset = open_training_set(golden_job(shard))
    assert (dataset.layout, dataset.num_samples, dataset.paired_dims) == (shard.stem[:2], None, {"one": 32, "two": 48})


def refusal(shards: Path, **changes: Any) -> str:
    with pytest.raises(PipelineError) as caught:
        open_training_set(train_job(shards, **changes))
    assert "\n  File" not in str(caught.value)
    return f"{type(caught.value).__name__} {caught.value}"


def test_a_dataset_without_config_json_says_what_to_set() -> None:
    message = refusal(GOLDEN_SHARDS[0])
    assert message.startswith("ConfigError")
    assert "config.json is not there" in message
    assert "data:\n    teachers:\n      - {name: first, dim: 768" in message


def test_config_json_of_another_writer_says_what_to_set(folder: Path) -> None:
    rewrite_config(folder, lambda config: config.pop("dr_pipeline"))
    assert "names no teacher that gives embeddings" in refusal(folder)
    rewrite_config(folder, lambda config: config.update(dr_pipeline={"teachers": [{"name": "x"}]}))
    assert "its teachers cannot be read" in refusal(folder)
    (folder / "config.json").write_text("[1]")
    assert "it is not an object, of keys and values" in refusal(folder)


def test_dims_that_do_not_fit_are_named() -> None:
    message = refusal(GOLDEN_SHARDS[0], data={"teachers": GOLDEN_TEACHERS[:1]})
    assert message.startswith("ConfigError")
    for words in ("image_emb", "80 dims", "32 (one 32)"):
        assert words in message


def test_a_synthetic_key_that_nothing_matches_lists_those_present() -> None:
    message = refusal(GOLDEN_SHARDS[2], data={"teachers": GOLDEN_TEACHERS}, captions={"synthetic_key": "^blip"})
    assert message.startswith("ConfigError")
    assert "'^blip'; it has syn_text_a, syn_text_b" in message
    open_training_set(golden_job(GOLDEN_SHARDS[2], captions={"synthetic_key": "^blip", "synthetic_weight": 0}))


def test_a_layout_that_config_json_denies(folder: Path) -> None:
    rewrite_config(folder, lambda config: config["dr_pipeline"].update(layout="v1"))
    assert "s0_0 has layout v2, but config.json says v1" in refusal(folder)


def test_a_batch_larger_than_the_data(folder: Path) -> None:
    assert "schedule.batch_size is 8" in refusal(folder, schedule={"batch_size": 8})
    open_training_set(train_job(folder, schedule={"batch_size": 6}))


def test_shards_that_are_not_there(folder: Path) -> None:
    message = refusal(Path(f"{folder}/00/{{0..3}}.tar"))
    assert message.startswith("ConfigError data.shards: not there: 2 of 4 shards")
    assert message.endswith(f"{folder}/00/2.tar")
    assert "data.shards: no shard found" in refusal(folder / "nothing")


def test_fresh_views_have_no_stored_embeddings(folder: Path) -> None:
    assert "data.augmentation draws fresh views" in refusal(folder, data={"augmentation": {}})


def without(ext: str) -> Callable[[str, list[Member]], list[Member]]:
    return lambda key, members: [member for member in members if not member[0].endswith(ext)]


def test_a_first_shard_that_cannot_be_used(tmp_path: Path) -> None:
    for ext, words in (
        (".paug.json", "s0_2: missing member: paug.json"),
        (".jpg", "name it in data.base"),
        (".pth.gz", "missing member: pth.gz or npz"),
    ):
        job: Job = write_dataset(tmp_path / ext, without(ext))
        with pytest.raises(ShardError, match=rf"00/0\.tar: none of its first samples can be used.*{words}"):
            open_training_set(train_job(job.output.path))


def test_a_first_shard_whose_members_are_scattered_is_told_so(folder: Path) -> None:
    shard = folder / "00/0.tar"
    members = list(read_members(io.BytesIO(shard.read_bytes())))
    shard.write_bytes(tar_bytes(sorted(members, key=lambda member: member[0].partition(".")[2])))
    assert refusal(folder).endswith("do the members of a sample lie side by side? tar --sort=name writes them so")


def test_a_bad_first_sample_is_passed_over(tmp_path: Path) -> None:
    def damaged(key: str, members: list[Member]) -> list[Member]:
        return without(".paug.json")(key, members) if key == "s0_0" else members

    assert open_training_set(train_job(write_dataset(tmp_path / "out", damaged).output.path)).layout == "v2"


def test_a_shard_that_is_not_there_is_told_before_the_first_step(folder: Path) -> None:
    (folder / "00" / "2.tar").symlink_to("nowhere.tar")
    assert "data.shards: not there: 1 of 3 shards; the first is" in refusal(folder)
    (folder / "00" / "2.tar").unlink()
    listed = folder / "list.txt"
    listed.write_text(f"{folder}/00/0.tar # first\n{folder}/00/7.tar\n")
    assert "00/7.tar (line 2 of" in refusal(listed)
