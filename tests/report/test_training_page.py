"""The page of a training run: what it tells of the run, and what the student finds."""

import json
import re
import shutil
from collections import Counter
from html import escape
from pathlib import Path

import pytest

from dr_pipeline.errors import ConfigError
from dr_pipeline.report.page.frame import render_page
from dr_pipeline.report.runs.folder import read_run
from dr_pipeline.report.runs.training_page import training_page
from dr_pipeline.training.metrics import read_metrics
from dr_pipeline.training.train import train
from tests.conftest import GOLDEN, make_sample_members, write_tar
from tests.report.conftest import HOSTILE, OF_RUNS, text_of
from tests.tars import read_members
from tests.training.conftest import COCA, MakeJob

pytestmark = OF_RUNS


def page_of(folder: Path) -> str:
    return render_page(training_page(read_run(str(folder))))


def copied(folder: Path, to: Path) -> Path:
    """A copy of a run that a test may change."""
    return shutil.copytree(folder, to / "run", ignore=shutil.ignore_patterns("tensorboard", "checkpoints"))


@pytest.fixture(scope="module")
def student_page(student_run: Path) -> str:
    """The page of the run that was stopped once."""
    return page_of(student_run)


def test_what_was_trained_on_what(student_page: str) -> None:
    text = text_of(student_page)
    for said in (
        "steps 6 of 6",
        "samples seen 24",
        "objective a dual encoder of images and texts",
        "image size 32 px",
        "λ, the weight of distillation 1",
        "captions ground truth × 1, synthetic × 1",
        "one 32 7.0 two 48 6.0",
        "adamw, learning rate 0.001 after 1 step of warm-up, weight decay 0.2",
        "schedule.batch_size 4",
    ):
        assert said in text
    assert re.search(r"UTC 0 CPU 1 float32 .* UTC 3 CPU 1 float32", text)
    assert "Every sample that was read could be used." in text


def test_text_from_data_is_text(student_page: str) -> None:
    assert HOSTILE not in student_page
    assert student_page.count(escape(HOSTILE)) >= 3, "title and heading, and a class"


def test_curves_have_a_mark_where_the_run_was_stopped(student_page: str, student_run: Path) -> None:
    losses = [record["loss"] for record in read_metrics(student_run) if record["event"] == "step"]
    text = text_of(student_page)
    assert f"Loss. sum ends at {losses[-1]:.4g}; ground-truth captions ends at" in student_page
    assert all(f"sum {step} {loss:.4g}" in text for step, loss in enumerate(losses, start=1))
    for title in ("Learning rate", "Speed", "Data wait", "Gradient norm", "Logit scale"):
        assert title in text
    assert student_page.count('class="mark" d="M40.0 0V100"') >= 6, "step 3 of 1 to 6"


def test_evaluations_are_drawn_and_the_last_and_the_best_are_told(student_page: str, student_run: Path) -> None:
    evaluations = [record for record in read_metrics(student_run) if record["event"] == "evaluation"]
    assert [record["step"] for record in evaluations] == [2, 3, 4, 6]
    name = "scenes retrieval image_to_text_r10"
    values = [round(100 * record[name], 1) for record in evaluations]
    steps = [record["step"] for record in evaluations]
    best = max(values)
    row = f"scenes retrieval image_to_text_r10 {values[-1]} {best} {steps[values.index(best)]}"
    assert row in text_of(student_page)


def test_examples_of_both_directions_and_of_classes(student_page: str) -> None:
    text = text_of(student_page)
    assert "among 24 images and 24 different texts of task scenes retrieval" in text
    for what in ("Texts for an image", "Images for a text", "Classes for an image"):
        assert re.search(rf"{what}: (right by the widest margin|ranked worst|others)", text), what
    assert "rank 1 of 24" in text or "rank 2 of 24" in text
    assert "for 24 images of task scenes classification" in text
    assert student_page.count("data:image/jpeg;base64,") > 20


def test_a_captioner(make_train_job: MakeJob, tmp_path: Path) -> None:
    train(make_train_job(COCA, objective="coca", schedule={"steps": 2}), None)
    text = text_of(page_of(tmp_path / "run"))
    assert "objective a captioner (CoCa)" in text
    assert "captions × 2, contrastive × 1" in text
    assert "different texts of the first samples that it was trained on" in text
    assert "The run has not been evaluated" in text


def test_a_classifier(classifier_run: Path) -> None:
    text = text_of(page_of(classifier_run))
    assert "objective a classifier of images" in text
    assert "24 images of the first samples that it was trained on; the nearest classes by probability" in text
    assert re.search(r"class \d+ 0\.\d{3}", text)
    assert "Logit scale" not in text, "it has none"


def test_skipped_samples_are_told_by_reason(make_train_job: MakeJob, tmp_path: Path) -> None:
    with (GOLDEN / "shards/v2_bf16.tar").open("rb") as file:
        members = [*read_members(file)]
    shard = write_tar(tmp_path / "x.tar", [*members, *make_sample_members("bare")])
    for stop_at in (3, None):
        train(make_train_job(data={"shards": str(shard)}, schedule={"stop_at": stop_at}), None)
    run = read_run(str(tmp_path / "run"))
    skipped = [record["skip_reasons"] for record in read_metrics(tmp_path / "run") if record["step"] in (3, 6)]
    assert run.skipped == Counter(skipped[0]) + Counter(skipped[1])
    assert run.skipped
    text = text_of(page_of(tmp_path / "run"))
    assert "Why samples were passed over" in text
    assert all(f"{reason} {count}" in text for reason, count in run.skipped.items())


def test_a_run_that_goes_on_has_a_page_too(student_run: Path, tmp_path: Path) -> None:
    folder = copied(student_run, tmp_path)
    shutil.rmtree(folder / "model")
    log = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join(log[:2]) + '{"event": "st')
    text = text_of(page_of(folder))
    assert "The run has not ended: step 2 of 6 is the last that is logged." in text
    assert "The run has published no model yet" in text


def test_lines_of_the_log_that_are_damaged_are_left_out(student_run: Path, tmp_path: Path) -> None:
    folder = copied(student_run, tmp_path)
    expected = read_run(str(folder))
    step = {"event": "step", "step": 1, "samples": 8, "loss": 1.5, "samples_per_second": 0}
    lines = [{**step, "loss": "x"}, step, {"event": "evaluation", "step": 6, "scenes acc1": None}]
    with (folder / "log.jsonl").open("a") as log:
        log.writelines(f"{json.dumps(line)}\n" for line in lines)
    run = read_run(str(folder))
    assert run.steps == [*expected.steps, step]
    assert run.evaluations == expected.evaluations
    assert run.train_seconds == expected.train_seconds
    assert "loss at the end 1.500" in text_of(page_of(folder))


def test_the_first_samples_stand_in_for_tasks_and_long_texts_are_cut(make_train_job: MakeJob, tmp_path: Path) -> None:
    with (GOLDEN / "shards/v2_bf16.tar").open("rb") as file:
        members = [(name, b"word " * 500 if name.endswith(".txt") else data) for name, data in read_members(file)]
    train(make_train_job(data={"shards": str(write_tar(tmp_path / "x.tar", members))}, schedule={"steps": 2}), None)
    html = page_of(tmp_path / "run")
    assert "and 1 different texts of the first samples that it was trained on" in text_of(html)
    assert max(map(len, re.findall("(?:word )+…?", html))) == 301


def test_a_run_before_its_first_step_has_a_page(student_run: Path, tmp_path: Path) -> None:
    folder = copied(student_run, tmp_path)
    shutil.rmtree(folder / "model")
    (folder / "log.jsonl").write_text("")
    assert "No step is logged yet." in text_of(page_of(folder))


def test_a_run_of_an_earlier_version_has_a_page(student_run: Path, tmp_path: Path) -> None:
    folder = copied(student_run, tmp_path)
    (folder / "about.json").unlink()
    text = text_of(page_of(folder))
    assert "An earlier version made this run" in text
    assert "of the first samples that it was trained on" in text


def test_fields_that_a_version_did_not_know_have_their_defaults(student_run: Path, tmp_path: Path) -> None:
    folder = copied(student_run, tmp_path)
    job = json.loads((folder / "job.json").read_text())
    del job["captions"], job["schedule"]["weight_decay"]
    (folder / "job.json").write_text(json.dumps(job))
    assert "weight decay 0.2" in text_of(page_of(folder))
    del job["schedule"]["batch_size"]
    (folder / "job.json").write_text(json.dumps(job))
    with pytest.raises(ConfigError, match=r"its job\.json is no .*: schedule\.batch_size: required, but missing"):
        page_of(folder)


@pytest.mark.parametrize("lost", ["held_out", "tokenizer", "weights"])
def test_what_examples_lack_is_told(student_run: Path, tmp_path: Path, lost: str) -> None:
    folder = copied(student_run, tmp_path)
    if lost == "held_out":
        record = json.loads((folder / "about.json").read_text())
        record["evaluation"]["retrieval"][0]["data"] = str(tmp_path / "gone")
        (folder / "about.json").write_text(json.dumps(record))
    elif lost == "tokenizer":
        job = json.loads((folder / "job.json").read_text())
        job["student"]["tokenizer"] = "nowhere:Words"
        (folder / "job.json").write_text(json.dumps(job))
    else:
        (folder / "model/open_clip_model.safetensors").write_bytes(b"nothing")
    text = text_of(page_of(folder))
    reason = {"held_out": r"\S+/gone", "tokenizer": "nowhere", "weights": "open_clip_model.safetensors"}[lost]
    assert re.search(rf"No examples: .*{reason}", text)
    assert "steps 6 of 6" in text


@pytest.mark.parametrize("content", [None, "[]", "{}", '{"schedule": 1}', "nothing"])
def test_what_is_no_run_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "job.json").write_text(content)
    with pytest.raises(ConfigError, match=r"is no training run's folder"):
        read_run(str(tmp_path))
