"""An output belongs to one configuration; its books have the contract's form; a report is a commit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL
import pytest

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.ledger import Ledger, num_samples_of, read_config
from dr_pipeline.dataset.recorded import contradictions
from dr_pipeline.dataset.report import ShardReport
from dr_pipeline.dataset.sealed import seal, unseal
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage
from tests.conftest import make_job

SECRET = "CANARY-f00d"


def job_in(folder: Path, **changes: Any) -> Job:
    job = make_job(**changes)
    return job.model_copy(update={"output": job.output.model_copy(update={"path": str(folder)})})


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_config_has_the_contracts_full_form(tmp_path: Path) -> None:
    Ledger(job_in(tmp_path)).open(force=False)
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
    assert ours["resampler"] == "pillow"
    assert [(card["name"], card["dim"], card["logit_scale"]) for card in ours["teachers"]] == [
        ("one", 3, 100.0),
        ("two", 5, 100.0),
    ]
    assert ours["identity"] == json.loads(json.dumps(make_job().identity()))


def test_without_rand_augment_the_consumer_is_told_so(tmp_path: Path) -> None:
    Ledger(job_in(tmp_path, augmentation={"rand_augment": None})).open(force=False)
    assert config_of(tmp_path)["reinforce"]["image_augmentation"]["rand_augment"]["enable"] is False


def test_what_the_loaded_teachers_are_and_the_sample_count_are_recorded(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    ledger = Ledger(job)
    ledger.open(force=False)
    ledger.record_totals(17, "ab")
    cards = tuple(
        card.model_copy(update={"mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "dim": 9}) for card in job.teachers
    )
    ledger.record_teachers(cards)
    config = config_of(tmp_path)
    assert (config["num_samples"], config["dr_pipeline"]["num_samples"]) == (4, 17)
    assert config["reinforce"]["image_augmentation"]["normalize"] == {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    assert [card["dim"] for card in config["dr_pipeline"]["teachers"]] == [9, 9]
    assert config["dr_pipeline"]["fingerprint"] == job.fingerprint()  # what a model says of itself is no other job
    assert Ledger(job).refusal() is None


def test_the_same_job_may_go_on_and_keeps_its_books(tmp_path: Path) -> None:
    Ledger(job_in(tmp_path)).open(force=False)
    Ledger(job_in(tmp_path)).record_totals(3, "ab")
    Ledger(job_in(tmp_path, workers={"max": 9})).open(force=False)
    assert config_of(tmp_path)["dr_pipeline"]["num_samples"] == 3


def test_going_on_tells_the_consumers_what_an_earlier_version_did_not(tmp_path: Path) -> None:
    job = job_in(tmp_path, augmentation={"rand_augment": {"num_ops": 1}})
    Ledger(job).open(force=False)
    config = unseal((tmp_path / "config.json").read_bytes())
    augmentation = config["reinforce"]["image_augmentation"]
    del augmentation["rand_augment"]["num_ops"], config["dr_pipeline"]["num_samples"]
    for described in (augmentation["normalize"], config["dr_pipeline"]["teachers"][0]):
        described["mean"] = [0.1, 0.2, 0.3]
    (tmp_path / "config.json").write_bytes(seal(config | {"num_samples": 9}))
    (lacking,) = contradictions(config_of(tmp_path))
    assert lacking.startswith("lacks reinforce.image_augmentation.rand_augment.num_ops, without which other trainers")
    Ledger(job).open(force=False)
    config = config_of(tmp_path)
    augmentation = config["reinforce"]["image_augmentation"]
    assert augmentation["rand_augment"]["num_ops"] == 1
    assert augmentation["normalize"]["mean"] == [0.1, 0.2, 0.3]
    assert num_samples_of(config) == 9
    Ledger(job).record_totals(12, "ab")
    config = config_of(tmp_path)
    assert (config["num_samples"], num_samples_of(config)) == (4, 12)


@pytest.mark.parametrize("config", [{"num_samples": 30}, {"num_samples": 30, "dr_pipeline": None}, {}])
def test_the_released_configs_do_not_say_how_large_a_dataset_is(config: dict[str, Any]) -> None:
    assert num_samples_of(config) is None


def test_another_job_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    Ledger(job_in(tmp_path)).open(force=False)
    Ledger(job_in(tmp_path)).commit(ShardReport("a.tar", "uri", "done", make_job().fingerprint()))
    before = (tmp_path / "config.json").read_bytes()
    other = Ledger(job_in(tmp_path, seed=5, augmentation={"num_views": 9}))
    with pytest.raises(ConfigError) as caught:
        other.open(force=False)
    message = str(caught.value)
    assert "  seed: 1 → 5" in message
    assert "  augmentation.num_views: 4 → 9" in message
    assert "--force" in message
    assert len(message.splitlines()) == 4
    assert (tmp_path / "config.json").read_bytes() == before


def made_by_pillow(version: str, folder: Path) -> None:
    """Let an output say that another Pillow made it."""
    config = unseal((folder / "config.json").read_bytes())
    config["dr_pipeline"]["pillow"] = version
    (folder / "config.json").write_bytes(seal(config))


def test_views_of_two_pillows_are_not_mixed(tmp_path: Path) -> None:
    ledger = Ledger(job_in(tmp_path))
    ledger.open(force=False)
    assert config_of(tmp_path)["dr_pipeline"]["pillow"] == PIL.__version__
    ledger.commit(ShardReport("a.tar", "uri", "done", make_job().fingerprint()))
    made_by_pillow(PIL.__version__.partition(".")[0] + ".99.1", tmp_path)
    assert ledger.refusal() is None
    ledger.check_pillow()
    made_by_pillow("12.3.0", tmp_path)
    for refused in (ledger.check_pillow, lambda: ledger.open(force=False)):
        with pytest.raises(
            ConfigError, match=r"those of Pillow 12.3.0, and here is Pillow .*pip install 'pillow==12\.\*'"
        ):
            refused()
    assert list(contradictions(config_of(tmp_path))) == []
    ledger.open(force=True)
    assert (config_of(tmp_path)["dr_pipeline"]["pillow"], ledger.done()) == (PIL.__version__, set())


def test_an_output_of_another_pillow_that_holds_nothing_yet_is_claimed_anew(tmp_path: Path) -> None:
    Ledger(job_in(tmp_path)).open(force=False)
    made_by_pillow("12.3.0", tmp_path)
    Ledger(job_in(tmp_path)).open(force=False)
    assert config_of(tmp_path)["dr_pipeline"]["pillow"] == PIL.__version__


def test_an_output_that_holds_nothing_yet_may_be_claimed_anew(tmp_path: Path) -> None:
    Ledger(job_in(tmp_path)).open(force=False)
    Ledger(job_in(tmp_path, seed=5)).open(force=False)
    assert config_of(tmp_path)["dr_pipeline"]["seed"] == 5
    assert Ledger(job_in(tmp_path, seed=5)).refusal() is None


def test_another_programs_config_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_name": "old"}')
    Ledger(job_in(tmp_path)).open(force=False)
    assert config_of(tmp_path)["model_name"] == "M1,two"


def test_force_redoes_everything(tmp_path: Path) -> None:
    old, new = job_in(tmp_path), job_in(tmp_path, seed=5)
    Ledger(old).open(force=False)
    Ledger(old).commit(ShardReport("a.tar", "uri", "done", old.fingerprint()))
    Ledger(new).open(force=True)
    assert config_of(tmp_path)["dr_pipeline"]["seed"] == 5
    assert Ledger(new).done() == Ledger(old).done() == set()
    assert not (tmp_path / "reports").exists()


def test_force_without_a_difference_redoes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(job_in(tmp_path))
    ledger.open(force=False)
    ledger.commit(ShardReport("a.tar", "uri", "done", "x"))
    ledger.open(force=True)
    assert ledger.done() == {"a.tar"}


def test_reports_are_commits_and_read_back(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    ledger = Ledger(job)
    assert ledger.done() == set()
    report = ShardReport(
        "00/0013.tar",
        "s3://b/00/0013.tar",
        "done",
        job.fingerprint(),
        9,
        7,
        28,
        14,
        {"no text": 2},
        123,
        "ab",
        {"read": 1.5},
    )
    for name in ("00/0013.tar", "01/0013.tar"):
        ledger.commit(replace(report, name=name))
    assert Ledger(job).done() == {"00/0013.tar", "01/0013.tar"}
    assert next(iter(Ledger(job).reports(["00/0013.tar"]))) == report
    assert (tmp_path / "reports" / job.fingerprint() / "00" / "0013.json").is_file()
    assert Ledger(job_in(tmp_path, seed=2)).done() == set()


def test_an_output_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"output\.path .*file/out cannot be written"):
        Ledger(job_in(tmp_path / "file" / "out")).open(force=False)


def test_a_config_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is not JSON"):
        Ledger(job_in(tmp_path)).open(force=False)


def test_no_config_is_none(tmp_path: Path) -> None:
    assert read_config(str(tmp_path / "absent"), Storage()) is None


def test_credentials_are_never_written(tmp_path: Path) -> None:
    job = job_in(tmp_path, input={"storage": {"secret": SECRET}}, output={"storage": {"key": SECRET}})
    ledger = Ledger(job)
    ledger.open(force=False)
    ledger.record_teachers(job.teachers)
    ledger.record_totals(1, "ab")
    ledger.commit(ShardReport("a.tar", "uri", "done", job.fingerprint()))
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 2
    assert not [text for text in written if SECRET in text]
