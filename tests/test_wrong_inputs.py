"""Whatever a verb is given: a line that says what is wrong and what to do, and never a traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dr_pipeline.cli import main
from tests.conftest import GOLDEN, job_tree
from tests.verification.datasets import write_dataset

ROOT = Path(__file__).parent.parent
JOBS = {verb: str(ROOT / f"jobs/{name}.yaml") for verb, name in {
    "run": "quickstart", "train": "train_quickstart", "evaluate": "evaluate_quickstart",
    "tune-logit-scale": "tune_logit_scale_quickstart", "check-teacher": "../teachers/examples/mirror",
}.items()}  # fmt: skip
VERBS = (*JOBS, "plan", "verify", "inspect", "look")
SHARD = GOLDEN / "shards/v2_bf16.tar"
CONFIGS = {
    "list": "[]", "number": '{"dr_pipeline": 5}', "empty block": '{"dr_pipeline": {}}', "broken": "{",
    "identity": '{"dr_pipeline": {"identity": [], "fingerprint": 3, "teachers": 4}, "reinforce": 7}',
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of each wrong kind."""
    monkeypatch.chdir(tmp_path)
    wrong = {
        "empty": b"", "binary": bytes(range(256)) * 8, "list.yaml": b"- a\n", "number.yaml": b"7", "text.yaml": b"word",
        "keys.yaml": b"{1: 2, null: 3, 2.5: 4, [1, 2]: 5}", "zeros.tar": bytes(10_240), "bad.tar": b"hello" * 999,
        "ints.yaml": b"{1: 2, true: 3}",
    }  # fmt: skip
    for name, data in wrong.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    return tmp_path


def call(*arguments: str) -> int:
    return main(arguments)


THINGS = ["missing", "folder", "empty", "binary", "list.yaml", "number.yaml", "text.yaml", "keys.yaml", "ints.yaml",
          "zeros.tar", "bad.tar", "empty/x", "/dev/null", "", "a\0b", "x" * 5000, "\udcff", "nosuch://x/y",
          "package://", "in{", "["]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: ascii(thing)[:20])
def test_what_is_no_job_card_or_dataset_is_told_in_a_line(verb: str, thing: str, capsys: pytest.CaptureFixture) -> None:
    code = call(verb, thing)
    shown = capsys.readouterr()
    assert code in (1, 2) or (code, thing) == (0, "zeros.tar")
    assert "Traceback" not in shown.out + shown.err
    if code == 2:
        assert shown.err.strip()


@pytest.mark.parametrize(
    ("verb", "field"),
    [
        ("plan", "input.shards"), ("plan", "output.path"), ("plan", "teachers.0.options.weights"),
        ("plan", "teachers.0.card"), ("train", "data.shards"), ("tune-logit-scale", "path"),
        ("tune-logit-scale", "train"), ("evaluate", "model.weights"), ("evaluate", "tasks.classification.0.data"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("thing", ["missing", "folder", "bad.tar", "a\\0b", "x" * 5000, "\\udcff", ""], ids=ascii)
def test_a_path_in_a_job_that_is_none_is_told(verb: str, field: str, thing: str, capsys: pytest.CaptureFixture) -> None:
    file = JOBS["run" if verb == "plan" else verb]
    fixed = [f"input.shards={SHARD}", "output.path=out"] if verb == "plan" else []
    assert call(verb, file, *fixed, f'{field}="{thing}"') in (0, 1, 2)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("verb", ["run", "train", "verify", "inspect", "look", "deep"])
def test_a_datasets_damaged_description_is_told(
    verb: str, content: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copy(SHARD, folder / "folder/a.tar")
    (folder / "folder/config.json").write_text(content)
    reports = folder / "folder/reports/abcdefabcdef"
    reports.mkdir(parents=True)
    (reports / "a.json").write_text("[]")
    (folder / "job.yaml").write_text(yaml.safe_dump(job_tree(input={"shards": str(SHARD)}, output={"path": "folder"})))
    commands = {
        "run": ["plan", "job.yaml"],
        "train": ["train", JOBS["train"], "data.shards=folder", "run.path=run"],
        "deep": ["verify", "folder", "--deep"],
    }
    assert call(*commands.get(verb, [verb, "folder"])) in (0, 1, 2)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err


@pytest.mark.parametrize("place", ["config.json", "manifest/shards.parquet", "run.json"])
def test_a_folder_where_a_file_should_be_is_told(place: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    job = write_dataset(folder / "out")
    path = folder / "out" / place
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(job_tree(input={"shards": str(SHARD)}, output={"path": "out"})))
    assert job.output.path == str(folder / "out")
    for command in (["plan", "job.yaml"], ["verify", "out"], ["inspect", "out"], ["look", "out"]):
        assert call(*command) in (0, 1, 2)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("verb", "meant"),
    [(verb, meant) for verb in (*JOBS, "plan") for meant in JOBS if meant != ("run" if verb == "plan" else verb)],
)
def test_a_file_of_another_kind_names_its_verb(verb: str, meant: str, capsys: pytest.CaptureFixture) -> None:
    assert call(verb, JOBS[meant]) == 2
    assert f"is no file for this verb: use `dr-pipeline {meant} {JOBS[meant]}`" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "nearest"), [("rnu", "run"), ("trian", "train"), ("verfy", "verify"), ("-x", "")])
def test_a_mistyped_verb_is_answered_with_the_nearest(typed: str, nearest: str, capsys: pytest.CaptureFixture) -> None:
    assert call(typed, "job.yaml") == 2
    assert (f"no verb '{typed}'; did you mean {nearest}?" in capsys.readouterr().err) == bool(nearest)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("lab_of_wrong.py:Clip", "did you mean lab_of_wrong:Clip?"),
        ("./my_lab/clip.py:Clip", "did you mean my_lab.clip:Clip?"),
        ("my_lab/clip.py:Clip()", "did you mean my_lab.clip:Clip?"),
        ("my_lab.clip.Clip", "did you mean my_lab.clip:Clip?"),
        ("Clip", "such as my_lab.siglip:SigLip"),
        ("lab_of_wrong.deeper:Clip", "no module lab_of_wrong.deeper"),
        ("lab_of_wrong:Klip", "did you mean Clip?"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "check-teacher"])
def test_a_plug_in_that_is_named_wrongly_is_told_the_right_form(
    verb: str, use: str, said: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "lab_of_wrong.py").write_text("class Clip:\n    def __init__(self, device): ...\n")
    teacher = {"name": "clip", "use": use}
    (folder / "file.yaml").write_text(
        yaml.safe_dump(
            teacher
            if verb == "check-teacher"
            else job_tree(input={"shards": str(SHARD)}, captioners=[], teachers=[teacher])
        )
    )
    assert call(verb, "file.yaml") == 2
    shown = capsys.readouterr()
    assert said in shown.out + shown.err


@pytest.mark.parametrize("count", ["-1", "0", "1.5", "many", "9" * 5000])
def test_counts_are_whole_numbers_from_one_on(count: str, capsys: pytest.CaptureFixture) -> None:
    assert call("inspect", str(SHARD), "--count", count) == 2
    assert call("verify", str(SHARD), "--deep", "--samples", count) == 2
    assert capsys.readouterr().err.count("error: argument --") == 2


@pytest.mark.parametrize("verb", [*JOBS, "verify", "inspect", "look", "trainer-flags", "compare", "init"])
def test_an_empty_path_is_not_the_working_folder(verb: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert call(verb, "") == 2
    assert "an empty path" in capsys.readouterr().err
    assert not (folder / "jobs").exists()


def test_recipes_are_copied_to_a_folder_only(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert call("init", "s3://bucket/mine") == 2
    assert "not to a URL" in capsys.readouterr().err
    assert not (folder / "s3:").exists()


def test_overrides_may_stand_behind_options(capsys: pytest.CaptureFixture) -> None:
    assert call("plan", JOBS["run"], "--json", f"input.shards={SHARD}", "output.path=out") in (0, 2)
    assert json.loads(capsys.readouterr().out)["output"].endswith("/out")
    assert call("inspect", str(SHARD), "--count", "1", "more") == 2
    assert "unrecognized arguments: more" in capsys.readouterr().err


READER_GONE = """
import os, sys
from dr_pipeline import cli
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
if {both}: os.dup2(write, 2)
code = cli.main({command!r})
os.write({said}, str(code).encode())
"""


@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_a_reader_that_goes_away_ends_a_command_without_a_word(both: bool, folder: Path) -> None:
    """As `| head -1` does. All verbs print by the same two functions."""
    (folder / "job.yaml").write_text(yaml.safe_dump(job_tree(input={"shards": str(SHARD)})))
    for command in (["init", "mine"],) if both else (["inspect", str(SHARD)],):
        read, write = os.pipe()
        code = READER_GONE.format(command=command, both=both, said=write)
        ran = subprocess.run(
            [sys.executable, "-c", code], pass_fds=[write], capture_output=True, text=True, check=False
        )
        os.close(write)
        with os.fdopen(read) as said:
            assert said.read() == "141", command
        assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        ("missing", "missing: there is no such folder: name the folder of a training run, its job's run.path"),
        ("empty", "empty is a file: name the folder of a training run"),
        ("folder", "folder is no training run's folder, for it has no job.json: name"),
        ("tuned", "tuned is a tuning's folder: name the folder of a training run"),
        ("deep", "its job.json cannot be read: "),
    ],
)
def test_what_is_no_run_is_not_compared(
    thing: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, text in {"tuned/tuning.json": "{}", "deep/job.json": "[" * 100_000}.items():
        (folder / path).parent.mkdir()
        (folder / path).write_text(text)
    assert call("compare", thing) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert "Errno" not in line


DAMAGED_RUN = {
    "job.json": '{"schedule": {"steps": "x"}, "student": {"architecture": 1}, "data": {"shards": 2}, "contents": 3}',
    "log.jsonl": '{"a": 1}\n{"event": "step", "step": "x"}\n{"event": "step", "step": 1}\n7\n' + "[" * 100_000,
}


@pytest.mark.parametrize("verb", ["compare", "look", "status"])
def test_a_damaged_run_is_told(verb: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in DAMAGED_RUN.items():
        (folder / "folder" / name).write_text(text)
    assert call(verb, "folder") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: folder")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init", "empty"], "empty: the recipes cannot be copied there: Not a directory"),
        (["trainer-flags", "missing"], "missing: there is no such dataset: name the folder that a run has written"),
        (["look", str(SHARD), "--serve", "--port", "99999"], "'99999' is no whole number from 0 to 65535"),
        (["verify", str(SHARD), "--seed", "x"], "'x' is no whole number from 0 on"),
        (["verify", str(SHARD), "--base", ""], "argument --base: an empty path"),
        (["plan", JOBS["run"], "teachers.0.card=null"], "teachers.0.card: expected the path of a card's file"),
        (["plan", JOBS["run"], "scorers.0.min=1"], "the job file has no list scorers: give it whole, scorers=[…]"),
        (["plan", JOBS["run"], "a..b=1"], "override 'a..b=1': a key's name is missing: write it as key.path=value"),
        (["plan", JOBS["run"], "captioners=x"], "expected a list of cards, such as [{card: PATH}] (found 'x')"),
    ],
)
def test_an_error_says_what_and_what_to_do_in_our_words(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Errno" not in error
