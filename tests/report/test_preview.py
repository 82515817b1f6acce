"""A plan's figures: estimates near the truth, and what would be refused."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.dataset.reports import Reports, ShardReport
from dr_pipeline.networks.cost import Cost
from dr_pipeline.report.preview import Calibration, Measured, Preview, preview
from dr_pipeline.report.sample_time import Models
from tests.conftest import make_job, make_sample_members, write_tar
from tests.verification.datasets import SAMPLES_PER_SHARD, write_dataset


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with three shards of fifty samples."""
    monkeypatch.chdir(tmp_path)
    for shard in range(3):
        members = [m for index in range(50) for m in make_sample_members(f"{shard}_{index}", seed=index)]
        write_tar(tmp_path / "in" / f"{shard}.tar", members)
    return tmp_path


def shown(**changes: Any) -> Preview:
    models = Models({"one": Cost(12_345_678, image_flops=10**9), "two": None})
    return preview(make_plan(make_job(**changes)), models)


def test_counts_and_models(folder: Path) -> None:
    found = shown()
    assert (found.name, found.output) == ("tiny", f"{folder}/out")
    assert (found.num_todo, found.num_done, found.num_missing) == (3, 0, 0)
    assert found.input_bytes == sum(path.stat().st_size for path in (folder / "in").iterdir())
    assert found.models == (
        "captioner coca: size unknown, 2 captions by top_p into syn_text, weights its own",
        "teacher one: 12.3 M parameters, 3 dims at 16 px, logit scale 100, weights w1",
        "teacher two: size unknown, 5 dims at 24 px, logit scale 100, weights its own",
    )
    assert found.refused == ()
    assert not Path("out").exists()


def test_the_cost_is_shown_with_what_was_not_counted() -> None:
    found = shown(workers={"max": 2})
    assert found.cost is not None
    assert found.cost.not_counted == ("coca", "two")
    text = str(found)
    assert "with 2; each waits for its cores" in text
    assert "unknown  the cost of two: not counted" in text
    assert "assumed  gpu_tflops=400, " in text
    assert "view_ms=1.7, " in text
    assert "view_ms=2.5, " in str(shown(assumptions={"view_ms": 2.5}))
    assert "limit    the number of shards, from 3 workers on" in text


def test_the_sample_count_is_close() -> None:
    assert shown().num_samples == pytest.approx(150, rel=0.02)


def test_the_sample_count_is_close_where_the_shards_are_packed(folder: Path) -> None:
    for path in (folder / "in").glob("*.tar"):
        path.with_suffix(".tgz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert shown().num_samples == pytest.approx(150, rel=0.02)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_the_output_size_is_close_where_embeddings_weigh(precision: str, folder: Path) -> None:
    cards = [{"name": name, "use": "m:C", "dim": 768} for name in ("a", "b")]
    changes: dict[str, Any] = {"teachers": cards, "output": {"precision": precision}, "augmentation": {"num_views": 30}}
    estimate = shown(**changes)
    # As many bytes as a dataset of this recipe adds to the same samples.
    job = write_dataset(folder / "made", num_shards=1, **changes)
    written = (Path(job.output.path) / "00" / "0.tar").stat().st_size / SAMPLES_PER_SHARD
    assert estimate.output_bytes is not None
    assert estimate.num_samples is not None
    assert estimate.output_bytes / estimate.num_samples == pytest.approx(
        written, rel=0.25
    )  # gzip takes more off random embeddings than off real ones


def test_done_and_missing_shards() -> None:
    changes = {"input": {"shards": "in/{0..4}.tar"}}
    job = make_plan(make_job(**changes)).job
    ConfigJson(job).claim(force=False)
    Reports.of(job).commit(ShardReport("1.tar", "u", "done", job.fingerprint()))
    found = shown(**changes)
    assert (found.num_todo, found.num_done, found.num_missing) == (4, 1, 2)
    assert found.num_samples == pytest.approx(100, rel=0.02)
    assert str(found.first_missing).endswith("/in/3.tar")
    assert "missing  2 of them are not there; the first is " in str(found)


def test_what_is_left_out_is_shown_with_the_reason(folder: Path) -> None:
    assert "left out" not in str(shown())
    (folder / "in" / "notes.txt").write_text("x")
    (folder / "in" / "gone.tar").symlink_to("nowhere")
    found = shown()
    assert [(left_out.count, left_out.first) for left_out in found.left_out] == [
        (1, f"{folder}/in/gone.tar"),
        (1, f"{folder}/in/notes.txt"),
    ]
    assert f"left out 1: links that lead nowhere; the first is {folder}/in/gone.tar\n" in str(found)


def test_what_would_be_refused() -> None:
    job = make_plan(make_job()).job
    ConfigJson(job).claim(force=False)
    Reports.of(job).commit(ShardReport("1.tar", "u", "done", job.fingerprint()))
    (refusal,) = shown(seed=8).refused
    assert "seed: 1 → 8" in refusal
    assert "refused  " in str(shown(seed=8))
    assert str(shown()).endswith("refused  nothing")
    plan = make_plan(make_job(seed=8))
    assert preview(plan, Models(), refused=["card one: no weights"]).refused == (refusal, "card one: no weights")


def test_a_shard_that_cannot_be_read_leaves_the_samples_unknown(folder: Path) -> None:
    (folder / "in" / "0.tar").write_bytes(b"<html>" * 300)
    found = shown()
    assert (found.num_samples, found.output_bytes) == (None, None)
    assert "samples  unknown to do" in str(found)


def test_nothing_left_to_do() -> None:
    job = make_plan(make_job()).job
    for shard in range(3):
        Reports.of(job).commit(ShardReport(f"{shard}.tar", "u", "done", job.fingerprint()))
    found = shown()
    assert (found.num_todo, found.num_done, found.input_bytes) == (0, 3, 0)
    assert "\nsamples " not in str(found)


QUIET = Calibration(
    shard="00/1.tar",
    device="CPU, 2 threads, float32",
    num_samples=40,
    num_skipped=0,
    seconds=31.4,
    load=0.1,
    figures=(Measured("samples/s of a worker", 12.5, 36.02), Measured("mean, ms a sample", 3, None)),
    assumptions={"models": {"mean": {"image_ms": 0.3}}, "decode_ms": 2.25},
    usage={},
)


def test_figures_stand_beside_what_was_assumed() -> None:
    assert [*QUIET.lines()] == [
        "40 samples of 00/1.tar on CPU, 2 threads, float32, in 31 s",
        "samples/s of a worker  12.5     assumed 36.02",
        "mean, ms a sample      3        assumed unknown",
    ]
    assert yaml.safe_load(QUIET.as_yaml()) == {"assumptions": QUIET.assumptions}


def test_what_makes_figures_doubtful_or_costs_money_is_said() -> None:
    used = {"requests": 20.0, "retries": 1.0, "failures": 0.0, "prompt_tokens": 2000.0, "completion_tokens": 140.0}
    lines = [*replace(QUIET, num_skipped=3, load=4.25, usage={"syn_text": {**used, "cost": 0.5}}).lines()]
    assert lines[1] == "3 of them were skipped"
    assert lines[2] == "others kept this machine busy, 4.2 tasks a core: measure again when it is idle"
    assert lines[-1].startswith("asked of endpoints for syn_text: 20 requests, 1 retry")
