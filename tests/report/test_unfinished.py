"""A dataset that a run is writing, that a killed run has left, and that is whole again: what each verb says of it."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dr_pipeline.cli import main
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.runners.run import run
from tests.conftest import make_job
from tests.demo_job import QUICKSTART, Silent, demo_job, make_scenes, small
from tests.served import served
from tests.waiting import wait_until

VERBS = (("verify",), ("inspect",), ("inspect", "--key", "000000000"), ("look",))
WRITTEN = r"not whole: the run that is process (\d+) on \S+ has not ended, and writes it, or was killed: `dr-pip"


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that has written some of the shards of `scenes` into `out`, and pauses."""
    scenes, out = make_scenes(tmp_path / "scenes", num_shards=4, samples_per_shard=12), tmp_path / "out"
    command = [sys.executable, "-m", "dr_pipeline", "run", str(QUICKSTART), *small(scenes, out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: list(out.glob("reports/*/*.json")))
        process.send_signal(signal.SIGSTOP)
        yield process
        process.kill()


def said(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[int, str]:
    """A verb's exit code, and all that it says of the dataset in `out`, on the page of `look` too."""
    page = folder / "page.html"
    code = main([words[0], str(folder / "out"), *words[1:], *(["--html", str(page)] if words[0] == "look" else [])])
    printed = capsys.readouterr()
    return code, f"{printed.out}{printed.err}{page.read_text() if words[0] == 'look' else ''}"


def test_every_verb_says_that_a_dataset_is_not_whole_until_it_is(
    writing: subprocess.Popen[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = said(capsys, tmp_path, "status")
    assert (code, f"process {writing.pid}" in text, "running since" in text) == (0, True, True)
    for words in VERBS:
        code, text = said(capsys, tmp_path, *words)
        assert code == (words[0] == "verify")
        assert {int(pid) for pid in re.findall(WRITTEN, text)} == {writing.pid}, words
        assert text.count("not whole") == 1 + (words[0] == "look"), "on the page, too"
    with served(str(tmp_path / "out")) as server:
        assert re.search(WRITTEN, server.ask("").body.decode())
        assert server.ask("sample", key="000000000").json["samples"]
    assert main(["trainer-flags", str(tmp_path / "out")]) == 2
    assert "how many samples it has is not known before a run has ended: not whole" in capsys.readouterr().err

    writing.kill()
    writing.wait()
    code, text = said(capsys, tmp_path, "status")
    assert (code, "its run is gone" in text) == (1, True)
    assert "not whole" in said(capsys, tmp_path, "inspect")[1]

    run(demo_job(tmp_path / "scenes", tmp_path / "out"), Silent())
    for words in (("status",), *VERBS):
        code, text = said(capsys, tmp_path, *words)
        assert (code, "not whole" in text) == (0, False)


def test_a_run_that_has_no_shard_yet_is_not_taken_for_another_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(output={"path": str(tmp_path / "out")})
    ConfigJson(job).claim(force=False)
    for verb in ("verify", "inspect", "look", "trainer-flags"):
        assert main([verb, str(tmp_path / "out")]) == 2
        assert "yet: not whole: its last run was stopped before its end: run the job again" in capsys.readouterr().err
