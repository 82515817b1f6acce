"""What shells complete, typed into real ones on a terminal of their own."""

import os
import pty
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import call

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'PS1="> "; eval "$(_DR_PIPELINE_COMPLETE=bash_source {})"'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'PS1="> "; autoload -Uz compinit; compinit -u -D; eval "$(_DR_PIPELINE_COMPLETE=zsh_source {})"',
    ),
}
"""Shell → how it starts without anybody's settings, and the line that docs/commands.md has for it."""
PROGRAM = "dr-pipeline"


class Terminal:
    """A shell that somebody types into."""

    def __init__(self, shell: str, folder: Path):
        words, prepare = SHELLS[shell]
        self._pid, self._screen = pty.fork()
        if self._pid == 0:
            os.chdir(folder)
            os.environ.update(TERM="xterm", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
            os.execvp(words[0], words)
        self.type(f"{prepare.format(PROGRAM)}; echo prepa''red\n", until="prepared")

    def type(self, text: str, until: str) -> str:
        """Type, and read the screen until it shows a text."""
        os.write(self._screen, text.encode())
        shown = ""
        while until not in shown:
            shown += os.read(self._screen, 4096).decode(errors="replace").replace("\r", "").replace("\a", "")
        return shown

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._screen)


@pytest.fixture(scope="module", params=SHELLS)
def terminal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    if not shutil.which(request.param):
        pytest.skip(f"no {request.param} here")
    folder = tmp_path_factory.mktemp("folder")
    (folder / "job.yaml").write_text("teachers: [{card: a.yaml}, {card: b.yaml}]")
    (folder / "outputs").mkdir()
    terminal = Terminal(request.param, folder)
    yield terminal
    terminal.close()


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("tune", "-logit-scale "),
        ("verify --rep", "air "),
        ("run jo", "b.yaml "),
        ("run package://jobs/quicks", "tart.yaml "),
        ("run job.yaml augm", "entation."),
        ("run job.yaml augmentation.num_v", "iews="),
        ("run job.yaml workers.engine=l", "ocal "),
        ("run job.yaml teachers.1.ca", "rd="),
        ("train job.yaml run.path=outp", "uts/"),
    ],
)
def test_a_tab_completes(typed: str, completed: str, terminal: Terminal) -> None:
    shown = terminal.type(f"{PROGRAM} {typed}\t", until=completed[:-1])
    terminal.type("!\x15", until="!")  # what was typed behind it; then the line is deleted
    assert completed[:-1] in shown


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("tr", ["plain,train", "plain,trainer-flags"]),
        ("run jobs/qu", ["file,jobs/qu"]),
        ("verify out --base-", ["plain,--base-match", "plain,--base-storage"]),
        ("run job.yaml output.prec", ["plain,output.precision="]),
        ("train job.yaml output.", [""]),
        ("plan job.yaml workers.compile=", ["plain,workers.compile=true", "plain,workers.compile=false"]),
        ("plan absent.yaml teachers.0.logit", ["plain,teachers.0.logit_scale="]),
        ("plan job.yaml captioners.", ["plain,captioners.0."]),
        ("plan job.yaml captioners.0.sampling.method=gr", ["plain,captioners.0.sampling.method=greedy"]),
        ("plan job.yaml nothing.there", [""]),
    ],
)
def test_verbs_files_options_and_fields_are_completed(
    typed: str, completed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_DR_PIPELINE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_LINE", f"dr-pipeline {typed}")
    assert call() == 0
    assert capsys.readouterr().out.splitlines() == completed
