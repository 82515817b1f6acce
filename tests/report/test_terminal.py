"""What a terminal gets, and what a pipe gets, under the variables by which people say what they want."""

import io
import os
import pty
import re
import struct
import subprocess
import sys
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest

from dr_pipeline.cli import main
from tests.report.test_comparison import leave_run

VARIABLES = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "PYTHONIOENCODING")
TABLE = """
from rich.table import Table
from dr_pipeline.report.terminal import print_table
table = Table("configuration", "mean", title="title")
table.add_row("a name of forty characters is as long as", "[1] 54.0")
print_table(table)
"""
BAR = """
from dr_pipeline.report.terminal import FiguresBar, draws_bars
print("bars", draws_bars())
with FiguresBar("shards") as bar:
    bar.add_task("demo", total=2, completed=1, figures="")
"""
PYTHON = [sys.executable, "-c"]
COLOURS = re.compile(r"\x1b\[[\d;]*\b[349]\d[\d;]*m")


def environment(variables: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return {**kept, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **variables}


def in_pipe(words: list[str], **variables: str) -> str:
    ran = subprocess.run(words, env=environment(variables), capture_output=True, check=True)
    return (ran.stdout + ran.stderr).decode()


def on_terminal(words: list[str], columns: int = 80, **variables: str) -> str:
    """What a command shows on a terminal of its own."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(words, env=environment(variables), stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # how a terminal ends when the last program has left it
            pass
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    return shown.decode()


def width(shown: str) -> int:
    return max(map(len, shown.splitlines()))


def test_a_pipe_gets_tables_whole_and_without_escapes() -> None:
    shown = in_pipe([*PYTHON, TABLE])
    assert "\x1b" not in shown
    assert "│ a name of forty characters is as long as │ [1] 54.0 │" in shown
    assert width(in_pipe([*PYTHON, TABLE], COLUMNS="40")) == 40
    assert "\x1b[" in in_pipe([*PYTHON, TABLE], FORCE_COLOR="1")


def test_a_narrow_terminal_gets_what_fits() -> None:
    assert width(on_terminal([*PYTHON, TABLE], columns=40, TERM="dumb")) == 40


def test_bars_are_for_terminals_that_can_draw_them() -> None:
    drawn = on_terminal([*PYTHON, BAR])
    assert "bars True" in drawn
    assert COLOURS.search(drawn)
    plain = on_terminal([*PYTHON, BAR], NO_COLOR="1")
    assert "bars True" in plain
    assert "1/2" in plain
    assert not COLOURS.search(plain)
    dumb = on_terminal([*PYTHON, BAR], TERM="dumb")
    assert "bars False" in dumb
    assert "\x1b" not in dumb
    assert "bars False" in in_pipe([*PYTHON, BAR], FORCE_COLOR="1")


def test_an_encoding_that_lacks_a_sign_ends_no_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [leave_run(tmp_path / f"{seed}é", 0.5, seed) for seed in range(2)]
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["compare", *runs]) == 0
    assert main(["inspect", runs[0]]) == 2
    sys.stdout.flush()
    shown = written.getvalue().decode("ascii")
    assert "| 0\\xe9" in shown
    assert "| 50.0 ~ 0.0" in shown
