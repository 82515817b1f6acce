"""An output belongs to one configuration, and its config.json has the contract's form."""

import json
from pathlib import Path
from typing import Any

import PIL
import pytest

from dr_pipeline.config.job import Job
from dr_pipeline.dataset import checksum
from dr_pipeline.dataset.config_json import ConfigJson, contradictions, num_samples_of, read_config
from dr_pipeline.dataset.reports import Reports, ShardReport
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage
from tests.conftest import make_job

SECRET = "CANARY-f00d"


def job_in(folder: Path, **changes: Any) -> Job:
    job = make_job(**changes)
    return job.model_copy(update={"output": job.output.model_copy(update={"path": str(folder)})})


def config_of(folder: Path) -> dict[str, Any]:
    return checksum.load((folder / "config.json").read_bytes())


def test_config_has_the_contracts_full_form(tmp_path: Path) -> None:
    ConfigJson(job_in(tmp_path)).claim(force=False)
    config = config_of(tmp_path)
    assert config["model_name"] == "M1,two"
    assert config["pretrained"] == "w1,two"
    assert config["num_samples"] == 4  # views of an image, as in the released configs
    assert config["reinforce"] == {
        "image_augmentation": {
            "normalize": {"mean": None, "std": None},
            "rand_augment": {"enable": True, "p": 1.0},
            "random_resized_crop": {"interpolation": "bicubic", "size": 24},
            "to_rgb": {"enable": True},
            "to_tensor": {"enable": True},
        }
    }
    ours = config["dr_pipeline"]
    assert ours["num_samples"] == 0
    assert ours["fingerprint"] == make_job().fingerprint()
    assert (ours["layout"], ours["precision"], ours["seed"], ours["num_views"]) == ("v2", "bfloat16", 1, 4)
    assert ours["caption_keys"] == ["syn_text"]
    assert [(card["name"], card["dim"], card["logit_scale"]) for card in ours["teachers"]] == [
        ("one", 3, 100.0),
        ("two", 5, 100.0),
    ]
    assert ours["identity"] == json.loads(json.dumps(make_job().identity()))


def test_without_rand_augment_the_consumer_is_told_so(tmp_path: Path) -> None:
    ConfigJson(job_in(tmp_path, augmentation={"rand_augment": None})).claim(force=False)
    assert config_of(tmp_path)["reinforce"]["image_augmentation"]["rand_augment"]["enable"] is False


def test_what_the_loaded_teachers_are_and_the_sample_count_are_stored(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    config_json = ConfigJson(job)
    config_json.claim(force=False)
    config_json.write_totals(17, "ab")
    cards = tuple(
        card.model_copy(update={"mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "dim": 9}) for card in job.teachers
    )
    config_json.write_teachers(cards)
    config = config_of(tmp_path)
    assert (config["num_samples"], config["dr_pipeline"]["num_samples"]) == (4, 17)
    assert config["reinforce"]["image_augmentation"]["normalize"] == {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    assert [card["dim"] for card in config["dr_pipeline"]["teachers"]] == [9, 9]
    assert config["dr_pipeline"]["fingerprint"] == job.fingerprint()  # what a model says of itself is no other job
    assert ConfigJson(job).refusal() is None


def test_the_same_job_may_go_on_and_keeps_its_totals(tmp_path: Path) -> None:
    ConfigJson(job_in(tmp_path)).claim(force=False)
    ConfigJson(job_in(tmp_path)).write_totals(3, "ab")
    ConfigJson(job_in(tmp_path, workers={"max": 9})).claim(force=False)
    assert config_of(tmp_path)["dr_pipeline"]["num_samples"] == 3


@pytest.mark.parametrize("config", [{"num_samples": 30}, {}])
def test_the_released_configs_do_not_say_how_large_a_dataset_is(config: dict[str, Any]) -> None:
    assert num_samples_of(config) is None


def test_another_job_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    ConfigJson(job_in(tmp_path)).claim(force=False)
    Reports.of(job_in(tmp_path)).commit(ShardReport("a.tar", "uri", "done", make_job().fingerprint()))
    before = (tmp_path / "config.json").read_bytes()
    other = ConfigJson(job_in(tmp_path, seed=5, augmentation={"num_views": 9}))
    with pytest.raises(ConfigError) as caught:
        other.claim(force=False)
    message = str(caught.value)
    assert "  seed: 1 → 5" in message
    assert "  augmentation.num_views: 4 → 9" in message
    assert "--force" in message
    assert len(message.splitlines()) == 4
    assert (tmp_path / "config.json").read_bytes() == before


def test_models_whose_files_differ_are_named_though_one_side_has_fewer(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    teachers = [card.model_copy(update={"digests": {"weights": card.name * 3}}) for card in job.teachers]
    both, first = (job.model_copy(update={"teachers": tuple(chosen)}) for chosen in (teachers, teachers[:1]))
    ConfigJson(both).claim(force=False)
    Reports.of(both).commit(ShardReport("a.tar", "uri", "done", both.fingerprint()))
    assert "  teachers.1.digests.weights of two: twotwotwo → absent" in str(ConfigJson(first).refusal())


def test_a_config_that_lacks_what_follows_from_its_identity_contradicts_it(tmp_path: Path) -> None:
    ConfigJson(job_in(tmp_path, augmentation={"rand_augment": {"num_ops": 1}})).claim(force=False)
    config = config_of(tmp_path)
    assert list(contradictions(config)) == []
    del config["reinforce"]["image_augmentation"]["rand_augment"]["num_ops"], config["dr_pipeline"]["layout"]
    assert list(contradictions(config)) == [
        "dr_pipeline.layout is not what the identity in it says",
        "reinforce.image_augmentation.rand_augment.num_ops is not what the identity in it says",
    ]


def made_by_pillow(version: str, folder: Path) -> None:
    """Let an output say that another Pillow made it."""
    config = config_of(folder)
    config["dr_pipeline"]["pillow"] = version
    (folder / "config.json").write_bytes(checksum.dump(config))


def test_views_of_two_pillows_are_not_mixed(tmp_path: Path) -> None:
    config_json, reports = ConfigJson(job_in(tmp_path)), Reports.of(job_in(tmp_path))
    config_json.claim(force=False)
    assert config_of(tmp_path)["dr_pipeline"]["pillow"] == PIL.__version__
    reports.commit(ShardReport("a.tar", "uri", "done", make_job().fingerprint()))
    made_by_pillow(PIL.__version__.partition(".")[0] + ".99.1", tmp_path)
    assert config_json.refusal() is None
    config_json.check_pillow()
    made_by_pillow("12.3.0", tmp_path)
    for refused in (config_json.check_pillow, lambda: config_json.claim(force=False)):
        with pytest.raises(
            ConfigError, match=r"those of Pillow 12.3.0, and here is Pillow .*pip install 'pillow==12\.\*'"
        ):
            refused()
    assert list(contradictions(config_of(tmp_path))) == []
    config_json.claim(force=True)
    assert (config_of(tmp_path)["dr_pipeline"]["pillow"], reports.shards()) == (PIL.__version__, set())


def test_an_output_of_another_pillow_that_holds_nothing_yet_is_claimed_anew(tmp_path: Path) -> None:
    ConfigJson(job_in(tmp_path)).claim(force=False)
    made_by_pillow("12.3.0", tmp_path)
    ConfigJson(job_in(tmp_path)).claim(force=False)
    assert config_of(tmp_path)["dr_pipeline"]["pillow"] == PIL.__version__


def test_an_output_that_holds_nothing_yet_may_be_claimed_anew(tmp_path: Path) -> None:
    ConfigJson(job_in(tmp_path)).claim(force=False)
    ConfigJson(job_in(tmp_path, seed=5)).claim(force=False)
    assert config_of(tmp_path)["dr_pipeline"]["seed"] == 5
    assert ConfigJson(job_in(tmp_path, seed=5)).refusal() is None


def test_another_programs_config_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_name": "old"}')
    ConfigJson(job_in(tmp_path)).claim(force=False)
    assert config_of(tmp_path)["model_name"] == "M1,two"


def test_force_redoes_everything(tmp_path: Path) -> None:
    old, new = job_in(tmp_path), job_in(tmp_path, seed=5)
    ConfigJson(old).claim(force=False)
    Reports.of(old).commit(ShardReport("a.tar", "uri", "done", old.fingerprint()))
    ConfigJson(new).claim(force=True)
    assert config_of(tmp_path)["dr_pipeline"]["seed"] == 5
    assert Reports.of(new).shards() == Reports.of(old).shards() == set()
    assert not (tmp_path / "reports").exists()


def test_force_without_a_difference_redoes_nothing(tmp_path: Path) -> None:
    config_json, reports = ConfigJson(job_in(tmp_path)), Reports.of(job_in(tmp_path))
    config_json.claim(force=False)
    reports.commit(ShardReport("a.tar", "uri", "done", "x"))
    config_json.claim(force=True)
    assert reports.shards() == {"a.tar"}


def test_an_output_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"output\.path .*file/out cannot be written"):
        ConfigJson(job_in(tmp_path / "file" / "out")).claim(force=False)


def test_a_config_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json describes no dataset: "):
        ConfigJson(job_in(tmp_path)).claim(force=False)


def test_no_config_is_empty(tmp_path: Path) -> None:
    assert read_config(str(tmp_path / "absent"), Storage()) == {}


def test_credentials_are_never_written(tmp_path: Path) -> None:
    job = job_in(tmp_path, input={"storage": {"secret": SECRET}}, output={"storage": {"key": SECRET}})
    config_json = ConfigJson(job)
    config_json.claim(force=False)
    config_json.write_teachers(job.teachers)
    config_json.write_totals(1, "ab")
    Reports.of(job).commit(ShardReport("a.tar", "uri", "done", job.fingerprint()))
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 2
    assert not [text for text in written if SECRET in text]


def test_a_dataset_of_a_later_format_is_refused_and_one_without_a_number_is_read(tmp_path: Path) -> None:
    ConfigJson(job_in(tmp_path)).claim(force=False)
    config = config_of(tmp_path)
    for written in ("1.7", None):
        config["dr_pipeline"] = {**config["dr_pipeline"], "format": written}
        if written is None:
            del config["dr_pipeline"]["format"]
        (tmp_path / "config.json").write_bytes(checksum.dump(config))
        assert read_config(str(tmp_path), Storage())["dr_pipeline"]["layout"] == "v2"
        assert [*contradictions(config)] == []
    config["dr_pipeline"]["format"] = "2.0"
    (tmp_path / "config.json").write_bytes(checksum.dump(config))
    with pytest.raises(ConfigError, match=r"config\.json is of format 2\.0, and this dr-pipeline reads 1\.0: install"):
        read_config(str(tmp_path), Storage())
