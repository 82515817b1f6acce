"""What is made from the code in the place of a comment of a page, such as `<!-- commands -->`."""

import re

import click
from pages import ROOT
from recipes import first_sentence

from dr_pipeline.cli import program

MARKER = re.compile(r"^<!-- (commands|recipes|block)(.*) -->$", re.MULTILINE)
VERB = """## {name}

{what}

```text
{usage}
```

| | |
| --- | --- |
{rows}
"""


def filled(text: str) -> str:
    """The text of a page with each marker replaced by what it stands for."""
    made = {"commands": commands, "recipes": recipes, "block": block}
    return MARKER.sub(lambda marker: made[marker[1]](*marker[2].split()), text)


def commands() -> str:
    """A chapter for each verb: what it does, its form, its arguments and options."""
    top = click.Context(program, info_name=program.name)
    chapters = []
    for name, verb in program.commands.items():
        context = click.Context(verb, info_name=name, parent=top, max_content_width=100)
        records = [parameter.get_help_record(context) for parameter in verb.get_params(context)]
        rows = [f"| `{cell(words)}` | {cell(what).replace('<', '&lt;')} |" for words, what in filter(None, records)]
        usage = verb.get_usage(context).removeprefix("Usage: ")
        chapters.append(VERB.format(name=name, what=verb.help, usage=usage, rows="\n".join(rows)))
    return "\n".join(chapters)


def recipes(*patterns: str) -> str:
    """A table of the recipes that the patterns match: name, and the first sentence of the header."""
    found = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    rows = [f"| [{path.stem}](../{path.relative_to(ROOT)}) | {cell(first_sentence(path))} |" for path in found]
    return "\n".join(["| | |", "| --- | --- |", *rows])


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
