"""Logit scales in YAML files: new values, and not another character is changed."""

from pathlib import Path

import pytest
import yaml

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load, load_card
from dr_pipeline.config.objective import StoredTeacher
from dr_pipeline.config.training import TrainJob
from dr_pipeline.errors import ConfigError
from dr_pipeline.tuning.scale_files import ScaleFile, scale_text

TEACHERS = [StoredTeacher(name=name, dim=8, logit_scale=scale) for name, scale in (("one", 70), ("two", 16.5))]
CARD = "# Mine.\nuse: lab:Clip\nlogit_scale: 9.5   # by hand\noptions: {logit_scale: 9.5}\n"
JOB = """\
name: mine
input: {shards: in}   # the base
output: {path: out}

teachers:
  - card: one.yaml
    logit_scale: 70
  # The second.
  - {name: two, logit_scale: 6.0e+1, use: "lab:Clip"}
"""
TRAINING = """\
#!/usr/bin/env -S python -m dr_pipeline train
name: mine
data: {shards: in}
student: {architecture: ViT-B-16}
schedule: {steps: 20000, batch_size: 8}
run: {path: out}
"""
SCALES = {"one": 55.0, "two": 0.125}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a card."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.yaml").write_text(CARD)
    return tmp_path / "job.yaml"


def rewritten(path: Path, text: str) -> str:
    path.write_bytes(text.encode())
    ScaleFile(path, TEACHERS).write(SCALES)
    return path.read_bytes().decode()


def test_a_card_s_line_is_changed(written: Path) -> None:
    assert rewritten(written.with_name("one.yaml"), CARD) == CARD.replace("9.5   #", "55   #")
    assert load_card("one.yaml", TeacherCard).logit_scale == 55


@pytest.mark.parametrize("end", ["", "\n", "\n# The end.\n"])
def test_a_card_without_it_gets_a_line(written: Path, end: str) -> None:
    path = written.with_name("two.yaml")
    assert rewritten(path, f"use: lab:Clip{end}") == f"use: lab:Clip{end or chr(10)}logit_scale: 0.125\n"
    assert load_card(path, TeacherCard).logit_scale == 0.125


def test_a_job_s_entries_are_changed(written: Path) -> None:
    expected = JOB.replace("scale: 70", "scale: 55").replace("6.0e+1", "0.125")
    assert rewritten(written, JOB) == expected
    assert rewritten(written, JOB.replace("\n", "\r\n")) == expected.replace("\n", "\r\n")
    assert [card.logit_scale for card in load(written, Job).teachers] == [55, 0.125]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "distillation: {logit_scales: [ 70, 1.5 ]}  # as tuned",
            "distillation: {logit_scales: [ 55, 0.125 ]}  # as tuned",
        ),
        ("distillation:\n  logit_scales:\n  - 7  # a\n  - 8", "distillation:\n  logit_scales:\n  - 55  # a\n  - 0.125"),
        (
            "distillation: {teachers: [two], logit_scales: [9]}",
            "distillation: {teachers: [two], logit_scales: [0.125]}",
        ),
        (
            "distillation: {online_teachers: [{card: one.yaml, logit_scale: 1}]}",
            "distillation: {online_teachers: [{card: one.yaml, logit_scale: 55}]}",
        ),
    ],
)
def test_a_training_job_s_values_are_changed(written: Path, before: str, after: str) -> None:
    assert rewritten(written, TRAINING + before) == TRAINING + after
    load(written, TrainJob)


def test_a_training_job_s_own_columns_are_changed(written: Path) -> None:
    entries = "[{name: two, dim: 3, logit_scale: 1}, {name: three, dim: 3, logit_scale: 1}]"
    text = TRAINING.replace("shards: in", f"shards: in, teachers: {entries}")
    assert rewritten(written, text) == text.replace("scale: 1}, ", "scale: 0.125}, ")


def test_only_what_was_tuned_is_changed(written: Path) -> None:
    written.write_text(JOB)
    assert ScaleFile(written, TEACHERS).rewritten({"one": 3}) == JOB.replace("scale: 70", "scale: 3")


def test_a_job_stays_a_command_and_a_link_a_link(written: Path) -> None:
    written.write_text(JOB)
    written.chmod(0o755)
    link = written.with_name("link.yaml")
    link.symlink_to(written)
    ScaleFile(link, TEACHERS).write(SCALES)
    assert link.is_symlink()
    assert written.stat().st_mode & 0o777 == 0o755
    assert "scale: 55" in written.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TRAINING,
            r"takes the logit scales from the dataset.*add below distillation: the line\n  logit_scales: \[70, 16\.5\]",
        ),
        (TRAINING + "distillation: {logit_scales: [1, 2, 3]}", r"logit_scales has 3 values for one, two"),
        (
            JOB.replace("    logit_scale: 70\n", ""),
            r"teachers\.0, one, has no .*add to that entry\n    logit_scale: 9\.5",
        ),
        (
            JOB.replace("one.yaml", "one.yaml\n    name: three").partition("  # The")[0],
            "is about three, but tuned are one, two",
        ),
        ("use: lab:Clip\nlogit_scale: 3", "is about job, but tuned are one, two"),
        (JOB.replace("scale: 70", "scale: &s 70").replace("6.0e+1", "*s"), r"teachers\.0\.logit_scale=55, .* by hand"),
        ("{name: one, use: 'lab:Clip'}", r"job\.yaml.* set logit_scale=55 by hand"),
        (
            "{name: one, use: 'lab:Clip', logit_scale: 3, logit_scale: 4}",
            "the key 'logit_scale' is given on line 1 and again",
        ),
        ("name: [", r"job\.yaml is not YAML"),
        (JOB.replace("shards: in", "shard: in"), "shard: unknown key; did you mean shards"),
    ],
)
def test_what_cannot_be_changed_is_told_and_left(written: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        rewritten(written, text)
    assert written.read_text() == text


@pytest.mark.parametrize("scale", [70.0, 16.39, 0.1 + 0.2, 1e-7, 1e39, 12345678.25])
def test_a_scale_s_text_is_that_number(scale: float) -> None:
    assert yaml.safe_load(scale_text(scale)) == scale
