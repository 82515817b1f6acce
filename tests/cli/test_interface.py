"""The command line's own part: usage, help, versions, the log, completion, and what it never prints."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli.conftest import call, files, write_job

SECRET = "CANARY-f00d"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("reinforce", "job.yaml"),
        ("run",),
        ("plan", "job.yaml", "--views", "3"),
        ("verify",),
        ("inspect", "out", "--count", "many"),
        ("run", "absent.yaml"),
        ("plan", "absent.yaml"),
        ("run", "job.yaml", "sed=1"),
        ("run", "job.yaml", "seed"),
        ("plan", "job.yaml", "augmentation.num_views=none"),
        ("run", "job.yaml", "input.shards=nowhere/{0..3}.tar"),
        ("plan", "job.yaml", "input.shards=nowhere/*.tar"),
        ("run", "job.yaml", "input.shards=nolist.txt"),
        ("run", "job.yaml", "teachers.0.card=nowhere.yaml"),
        ("run", "job.yaml", "teachers.0.use=lab_of_cli:Klip"),
        ("run", "job.yaml", "teachers.0.dim=4"),
        ("run", "job.yaml", "output.path=job.yaml/out"),
        ("run", "job.yaml", "input.shards=nosuch://x/y.tar"),
        ("verify", "nowhere"),
        ("verify", "out", "--storage", "endpoint"),
        ("inspect", "nowhere"),
        ("check-teacher", "absent.yaml"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_told_in_a_line_and_writes_nothing(
    arguments: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(folder)
    code = call(*arguments)
    out, error = capsys.readouterr()
    assert code == 2
    assert "error" in error
    assert "Traceback" not in out + error
    written = {name for name in files(folder) - before if "__pycache__" not in name}
    found_by_loading = any(argument.startswith(("teachers.0.use", "teachers.0.dim")) for argument in arguments)
    assert written == ({"out/config.json"} if found_by_loading else set())  # the claim comes before the models


def test_a_bad_job_names_field_and_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml", "augmentation.num_veiws=3") == 2
    error = capsys.readouterr().err
    assert error == "error: job.yaml:\n  augmentation.num_veiws: unknown key; did you mean num_views?\n"


def test_an_input_that_is_not_there_names_the_first_shard(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml", "input.shards=in/{00000007..00000009}.tar") == 2
    assert f"{folder}/in/00000007.tar" in capsys.readouterr().err


def test_credentials_are_neither_printed_nor_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(input={"storage": {"secret": SECRET}}, output={"storage": {"key": SECRET}})
    (folder / "in" / "1.tar").write_bytes(b"")
    for arguments in (("plan",), ("plan", "--json"), ("run", "--json"), ("run",), ("run", "seed=2"), ("run", "sed=2")):
        call(arguments[0], "job.yaml", *arguments[1:])
    out, error = capsys.readouterr()
    assert "0.tar" in out
    assert SECRET not in out + error
    written = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert len(written) >= 5
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def test_the_module_and_the_console_script_are_the_same_program(folder: Path) -> None:
    script = Path(sys.executable).with_name("dr-pipeline")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for program in ([sys.executable, "-m", "dr_pipeline"], [str(script)]):
        done = subprocess.run(
            [*program, "plan", "job.yaml", "sed=1"], capture_output=True, text=True, env=environment, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: job.yaml:\n  sed: unknown key; did you mean seed?\n"


def test_help_and_version_are_answered_before_anything_is_loaded() -> None:
    heavy = "{'torch', 'ray', 'numpy', 'pydantic', 'fsspec', 'rich'}"
    code = "import sys; from dr_pipeline.cli import main; main(['run', '-h']); main(['--version']); "
    code += f"print({heavy} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown = ran.stdout.splitlines()
    assert shown[0] == "Usage: dr-pipeline run [OPTIONS] JOB [KEY.PATH=VALUE]..."
    assert shown[-2:] == [f"dr-pipeline {version('dr-pipeline')}", "set()"]


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_mistake_in_a_job_is_told_before_torch_is_loaded(verb: str, folder: Path) -> None:
    code = f"import sys; from dr_pipeline.cli import main; main([{verb!r}, 'job.yaml', 'sed=1']); "
    code += "print({'torch', 'ray'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr.count("did you mean seed?")) == ("set()\n", 1)


@pytest.mark.parametrize(("option", "logged"), [("-v", "iwe we"), ("--no-plugins", "we we"), ("--quiet", "e e")])
def test_the_log_shows_what_is_asked_for_and_escapes_it(option: str, logged: str) -> None:
    """Of this package: information, warnings, errors; of a library never information."""
    code = f"""
import logging
from dr_pipeline.cli import main
main(["init", "mine", {option!r}])
for name in ("dr_pipeline.x", "library"):
    log = logging.getLogger(name)
    log.info("i\x07"), log.warning("w\x07"), log.error("e\x07")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    levels = {"i": "INFO", "w": "WARNING", "e": "ERROR"}
    expected = [f"{levels[letter]} {letter}\\x07" for letter in logged.replace(" ", "")]
    assert ran.stderr.splitlines() == expected


@pytest.mark.parametrize("option", ["-v", "--no-plugins", "--json"])
def test_an_option_before_the_verb_is_told_its_place(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(option, "plan", "job.yaml") == 2
    error = capsys.readouterr().err
    assert error.endswith(f"error: {option} goes behind the verb: dr-pipeline VERB {option}\n")


@pytest.mark.parametrize("verb", ["inspect", "look", "status", "trainer-flags", "verify"])
def test_a_job_where_an_output_is_wanted_is_told_what_to_name(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(verb, "jobs/quickstart.yaml") == 2
    assert "jobs/quickstart.yaml is a job's file: name the folder that it writes" in capsys.readouterr().err
