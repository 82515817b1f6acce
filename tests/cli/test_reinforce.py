"""The verbs that make a dataset, plan, run and check-teacher: exit codes, and what they print."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.cli.conftest import PLUGIN, call, files


def test_run_verify_inspect_and_run_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml") == 0
    out, error = capsys.readouterr()
    counted = "syn_text: 16 captions, none blank, repeating itself or cut"
    assert out == f"8 samples in 2 shards at {folder}/out\n{counted}\n"
    assert "done 0.tar: 4 of 4 samples, 16 views" in error
    assert {"out/0.tar", "out/1.tar", "out/config.json", "out/manifest/shards.parquet"} <= files(folder)

    assert call("verify", "out") == 0
    assert capsys.readouterr().out == "8 samples in 2 shards read: no problem\n"
    assert call("verify", "out", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "num_shards": 2,
        "num_samples": 8,
        "problems": [],
        "num_recomputed": 0,
        "remarks": [],
    }

    assert call("inspect", "out", "--count", "1") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "0.tar: syn_text: 8 captions, none blank, repeating itself or cut"
    assert shown[1] == "0_0: 4 views, embeddings of 8 dims"
    assert shown[2].endswith("caption of 0")
    assert len(shown) == 5

    before = {name: (folder / name).read_bytes() for name in files(folder) if name.endswith(".tar")}
    assert call("run", "job.yaml") == 0
    out, error = capsys.readouterr()
    assert out == f"8 samples in 2 shards at {folder}/out\n"
    assert "0 shards to do, 2 done" in error
    assert before == {name: (folder / name).read_bytes() for name in before}


def test_run_prints_json_lines_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml", "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "progress" in [event["event"] for event in events]
    events = [event for event in events if event["event"] != "progress"]
    assert [event["event"] for event in events] == ["planned", "shard", "shard", "finished"]
    assert events[0] == {"event": "planned", "todo": 2, "done": 0, "left_out": []}
    assert events[1]["status"] == "done"
    captions = {"syn_text": {"drawn": 16}}
    assert events[3] == {"event": "finished", "num_samples": 8, "captions": captions, "usage": {}, "failed": []}


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_failed_shard_is_named_and_the_others_are_done(
    options: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "in" / "0.tar"
    path.write_bytes(path.read_bytes()[:3000])
    assert call("run", "job.yaml", *options) == 1
    out = capsys.readouterr().out
    if options:
        finished = json.loads(out.splitlines()[-1])
        assert (finished["num_samples"], finished["failed"]) == (4, ["0.tar"])
        assert finished["captions"] == {"syn_text": {"drawn": 8}}
    else:
        assert "4 samples in 1 shard" in out
        assert "failed 0.tar: truncated" in out
    assert "out/0.tar" not in files(folder)
    assert "out/1.tar" in files(folder)


def test_captions_that_say_nothing_are_stored_and_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml", "captioners.0.use=lab_of_cli:Mute", "captioners.0.redraws=1") == 0
    assert "syn_text: 16 captions, 16 blank\n" in capsys.readouterr().out
    assert call("inspect", "out", "--count", "1") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "0.tar: syn_text: 8 captions, 8 blank"
    assert [line.endswith("  [blank]") for line in shown[3:]] == [True, True]
    assert call("verify", "out") == 0
    rows = pq.read_table(folder / "out" / "manifest" / "samples" / "0.parquet").to_pylist()
    assert {row["poor_captions"] for row in rows} == {'{"syn_text": {"blank": 2}}'}


def test_a_corrected_model_may_use_the_output_that_the_wrong_one_claimed() -> None:
    assert call("run", "job.yaml", "teachers.0.use=lab_of_cli:Klip") == 2
    assert call("run", "job.yaml") == 0
    assert call("run", "job.yaml", "seed=2") == 2


def test_another_configuration_is_refused_unless_forced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml") == 0
    first = (folder / "out" / "0.tar").read_bytes()
    capsys.readouterr()
    assert call("run", "job.yaml", "seed=2") == 2
    assert "seed: 1 → 2" in capsys.readouterr().err
    assert call("plan", "job.yaml", "seed=2") == 2
    assert "refused  " in capsys.readouterr().out
    assert (folder / "out" / "0.tar").read_bytes() == first
    assert call("run", "job.yaml", "seed=2", "--force") == 0
    assert (folder / "out" / "0.tar").read_bytes() != first
    assert call("verify", "out") == 0


def test_plan_starts_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(folder)
    assert call("plan", "job.yaml") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"tiny → {folder}/out\nshards   2 to do, 0 done")
    assert out.endswith("refused  nothing\n")
    assert call("plan", "job.yaml", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["num_todo"], shown["num_done"], shown["num_missing"], shown["refused"]) == (2, 0, 0, [])
    assert abs(shown["num_samples"] - 8) <= 1
    assert {name for name in files(folder) - before if "__pycache__" not in name} == set()


def test_plan_measures_and_tells_what_fits_a_budget(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(folder)
    words = ("plan", "job.yaml", "prices.worker_hour=1", "--calibrate", "1.tar", "--budget", "1e-9")
    assert call(*words) == 0
    out, error = capsys.readouterr()
    assert error == "measuring this machine on 1.tar, for a minute or more\n"
    assert "\nmeasured 16 samples of 1.tar on CPU" in out
    assert "\nbudget   recommended: nothing: no shard fits\n" in out
    assert out.partition("\nrefused  nothing\n")[2].startswith("\n# keep it in the job:\nassumptions:\n")
    assert call(*words, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["calibration"]["assumptions"]["models"].keys() == {"coca", "clip3", "clip5"}
    assert shown["budget"]["alternatives"][0]["name"] == "as it is"
    assert shown["bill"]["total"] > 0
    assert {name for name in files(folder) - before if "__pycache__" not in name} == set()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--budget", "5"), "--budget 5 needs prices, and the job has no price of a worker's hour"),
        (("--budget", "nan", "prices.worker_hour=1"), "'nan' is no amount of money: write a number above 0"),
        (("--calibrate", "2.tar"), "--calibrate 2.tar: no shard of the job's input; did you mean 1.tar?"),
        (("--calibrate", ""), "an empty path"),
    ],
)
def test_plan_refuses_what_it_cannot_measure_or_count(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("plan", "job.yaml", *options) == 2
    assert said in capsys.readouterr().err


def test_a_budget_for_a_run_that_is_done_buys_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml") == 0
    capsys.readouterr()
    assert call("plan", "job.yaml", "prices.worker_hour=1", "--budget", "5") == 0
    assert "warning  --budget 5: no samples are left to do" in capsys.readouterr().out


def test_plan_names_a_card_that_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", "job.yaml", "teachers.1.use=lab_of_cli:Klip") == 2
    assert "card clip5: lab_of_cli:Klip: lab_of_cli has no Klip; did you mean Clip?" in capsys.readouterr().out


def test_plan_refuses_what_would_fail_in_every_shard_or_at_start(capsys: pytest.CaptureFixture[str]) -> None:
    options = "options: {model: ViT-B-32, weights: random}"
    clip = f"{{name: big, use: 'dr_pipeline.models.open_clip:OpenClipTeacher', {options}}}"
    coca = f"{{name: big, use: 'dr_pipeline.models.coca:CocaCaptioner', {options}}}"
    for override, said in (
        ("captioners=[]", "refused  every shard would fail: 4 of the first 4 samples of "),
        (f"teachers=[{clip}]", "refused  card big: takes 224 px but views are rendered at 24 px"),
        (f"captioners=[{coca}]", "refused  card big: captioner 'ViT-B-32' is a CLIP, which has no text decoder"),
    ):
        assert call("plan", "job.yaml", override) == 2
        assert said in capsys.readouterr().out


def test_check_teacher_finds_the_plug_in_beside_its_card(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cards = folder / "cards"
    cards.mkdir()
    (cards / "lab_beside_card.py").write_text(PLUGIN)
    card = {"use": "lab_beside_card:Clip", "dim": 4, "options": {"dim": 4}}
    (cards / "good.yaml").write_text(yaml.safe_dump(card))
    (cards / "bad.yaml").write_text(yaml.safe_dump({**card, "dim": 5}))
    assert call("check-teacher", "cards/good.yaml", "--batch", "2") == 0
    ability, images, speed, memory, verdict = capsys.readouterr().out.splitlines()
    assert ability == "teacher  images of 16 px and texts → an embedding of 4 dims"
    assert images.startswith("images   16 px, mean ")
    assert re.match(r"speed    [\d,.]+ images/s in batches of 2, [\d,.]+ texts/s in batches of 2 \(", speed)
    assert re.match(r"memory   [\d.]+ GiB", memory)
    assert verdict == "cards/good.yaml: ready"
    assert call("check-teacher", "cards/bad.yaml") == 1
    out = capsys.readouterr().out
    assert out.startswith("problem 1: card bad: dim is 5")
    assert out.endswith("cards/bad.yaml: 1 problem\n")


def test_check_teacher_takes_a_captioners_card_with_how_to_sample(folder: Path, capsys: pytest.CaptureFixture) -> None:
    card = {"use": "lab_of_cli:Coca", "tag": "mine", "num_captions": 2, "sampling": {"method": "greedy"}}
    (folder / "coca.yaml").write_text(yaml.safe_dump(card))
    assert call("check-teacher", "coca.yaml") == 0
    ability, *_, verdict = capsys.readouterr().out.splitlines()
    assert (ability, verdict) == ("captioner  captions images of 8 px", "coca.yaml: ready")
    (folder / "coca.yaml").write_text(yaml.safe_dump({**card, "num_caption": 2}))
    assert call("check-teacher", "coca.yaml") == 2
    assert "num_caption: unknown key; did you mean num_captions?" in capsys.readouterr().err
