"""What is made from the code in the place of a comment of a page, such as `<!-- commands -->`."""

import re
from collections.abc import Callable

import click
from pages import ROOT
from recipes import first_sentence

from dr_pipeline.cli import program

MARKER = re.compile(r"^<!-- (commands|recipes|block)(.*) -->$", re.MULTILINE)
TABLE = "| | |\n| --- | --- |\n{}\n"
VERB = "### {}\n\n{}\n\n```text\n{}\n```\n\n{}"


def filled(text: str) -> str:
    """The text of a page with each marker replaced by what it stands for."""
    made: dict[str, Callable[..., str]] = {"commands": commands, "recipes": recipes, "block": block}
    return MARKER.sub(lambda marker: made[marker[1]](*marker[2].split()), text)


def commands() -> str:
    """What every verb takes, and a chapter for each: what it does, its form, its arguments and options."""
    top = click.Context(program, info_name=program.name)
    contexts = [click.Context(verb, info_name=name, parent=top) for name, verb in program.commands.items()]
    rows = [rows_of(context) for context in contexts]
    common = [row for row in rows[0] if all(row in others for others in rows)]
    chapters = [f"Every verb takes\n\n{TABLE.format(chr(10).join(common))}"]
    for context, own in zip(contexts, rows, strict=True):
        usage = " ".join(context.get_usage().removeprefix("Usage: ").split())
        table = TABLE.format("\n".join(row for row in own if row not in common))
        chapters.append(VERB.format(context.info_name, context.command.help, usage, table))
    return "\n".join(chapters)


def rows_of(verb: click.Context) -> list[str]:
    """A row for each argument and option of a verb."""
    records = filter(None, (parameter.get_help_record(verb) for parameter in verb.command.get_params(verb)))
    return [f"| `{cell(words)}` | {cell(what).replace('<', '&lt;')} |" for words, what in records]


def recipes(*patterns: str) -> str:
    """A table of the recipes that the patterns match: name, and the first sentence of the header."""
    found = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    rows = [f"| [{path.stem}](../{path.relative_to(ROOT)}) | {cell(first_sentence(path))} |" for path in found]
    return TABLE.format("\n".join(rows))


def block(address: str) -> str:
    """The first code below a heading of another file, such as `README.md#use-it-in-your-own-trainer`."""
    file, _, anchor = address.partition("#")
    text = (ROOT / file).read_text(encoding="utf-8")
    below = re.search(rf"^#+ {anchor.replace('-', '[ -]')}$(?:.*?)^(```\w+\n.*?^```)$", text, re.M | re.S | re.I)
    if not below:
        raise ValueError(f"{address}: no such heading, or no code below it")
    return below[1]


def cell(text: str) -> str:
    """A text in a table, where a bar would end it."""
    return text.replace("|", r"\|")
