"""Command lines that files document, and how the program reads them."""

import re
import shlex
from pathlib import Path
from typing import Any

from dr_pipeline.cli import program


def documented(path: Path, name: str) -> list[list[str]]:
    """The words of each command line for the program `name` in a file's comments or `sh` blocks."""
    text = re.sub(r"\\\n#?\s*", "", path.read_text())
    block, flags = (r"```sh\n(.*?)```", re.DOTALL) if path.suffix == ".md" else (r"^# +(.*)", re.MULTILINE)
    lines = [line for found in re.findall(block, text, flags) for line in found.splitlines()]
    return [shlex.split(line) for line in lines if line.split()[:1] == [name]]


def understood(words: list[str]) -> dict[str, Any]:
    """The arguments and options of a command by name; nothing runs. Raises click.UsageError."""
    with program.make_context("dr-pipeline", [*words]) as context:
        name, verb, rest = program.resolve_command(context, [*words])
        assert verb is not None
        return verb.make_context(name, rest, parent=context).params
