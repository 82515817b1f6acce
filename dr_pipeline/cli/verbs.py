"""What all verbs have in common: how click reads their words."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import click

from dr_pipeline.cli.completion import fields, files, files_and_recipes
from dr_pipeline.cli.output import LOG_LEVELS
from dr_pipeline.config import plugins
from dr_pipeline.errors import ConfigError, nearest
from dr_pipeline.report.log import show_log

Body = Callable[..., int]

_LONGEST_NUMBER = 18
"""Digits; `int` refuses some thousands with an error of its own."""


class Verbs(click.Group):
    """The verbs in the order in which they were added; a mistyped one is answered with the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return [*self.commands]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Say of an option of the verbs that it goes behind one."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            given = error.option_name
            if not any(given in param.opts for verb in self.commands.values() for param in verb.params):
                raise
            ctx.fail(f"{given} goes behind the verb: {ctx.info_name} VERB {given}")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that the words begin with."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            typed, known = error.command_name, [*self.commands]
            ctx.fail(f"no verb {typed!r}{nearest(typed, known)}; there are {', '.join(known)}")


class Verb(click.Command):
    """A verb, with the options that all of them have. Arguments and options may come in any order."""

    def __init__(self, name: str, **settings: Any):
        super().__init__(name, **settings, context_settings={"allow_extra_args": True})
        for words, description in (
            (["--no-plugins"], "Refuse code that is not this package's own."),
            (["-v", "--verbose"], "Log informational messages too."),
            (["-q", "--quiet"], "Log errors only."),
        ):
            self.params.append(click.Option(words, is_flag=True, help=description))

    def get_short_help_str(self, limit: int = 0) -> str:
        """The help's sentence whole; click would cut it."""
        return self.help or ""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what is left over."""
        left = super().parse_args(ctx, args)
        if left and not ctx.resilient_parsing:
            ctx.fail(f"unrecognized arguments: {' '.join(left)}")
        return left

    def invoke(self, ctx: click.Context) -> int:
        """Run the verb; the exit code."""
        verbose, quiet = ctx.params.pop("verbose"), ctx.params.pop("quiet")
        show_log(LOG_LEVELS[verbose - quiet])
        with plugins.refused() if ctx.params.pop("no_plugins") else nullcontext():
            return int(super().invoke(ctx))


class WholeNumber(click.ParamType):
    """A number from `low` on, up to `high` where that is given."""

    name = "count"

    def __init__(self, low: int = 1, high: int | None = None):
        self._low, self._high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Raises BadParameter."""
        text = str(value)
        number = int(text) if text.isdecimal() and len(text) <= _LONGEST_NUMBER else -1
        if number < self._low or (self._high is not None and number > self._high):
            limit = "on" if self._high is None else f"to {self._high}"
            self.fail(f"{text!r} is no whole number from {self._low} {limit}", param, ctx)
        return number


class Amount(click.ParamType):
    """Money."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Raises BadParameter."""
        try:
            amount = float(value)
        except ValueError:
            amount = math.nan
        if not 0 < amount < math.inf:
            self.fail(f"{str(value)!r} is no amount of money: write a number above 0, such as 5000", param, ctx)
        return amount


class GivenPath(click.ParamType):
    """A path or a URL. An empty one is a variable that was not set, and not the working folder."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text. Raises BadParameter."""
        return str(value) or self.fail("an empty path: write . for the working folder", param, ctx)


class OutputPath(GivenPath):
    """Where a run has written. A job file is none, though it names one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text. Raises BadParameter."""
        path = super().convert(value, param, ctx)
        if path.endswith((".yaml", ".yml")):
            self.fail(
                f"{path} is a job's file: name the folder that it writes, its output.path or run.path", param, ctx
            )
        return path


json_lines = click.option("--json", "as_json", is_flag=True, help="JSON lines on standard output, for machines.")
job_file = click.argument(
    "job",
    type=GivenPath(),
    shell_complete=files_and_recipes,
    help="A job file (YAML), or package://jobs/NAME.yaml of the recipes.",
)
overrides = click.argument(
    "overrides",
    nargs=-1,
    shell_complete=fields,
    metavar="[KEY.PATH=VALUE]...",
    help="Fields of the job to replace.",
)
dataset = click.argument("output", type=OutputPath(), shell_complete=files, help="A dataset's folder, or one tar.")


def storage_option(name: str, description: str) -> Callable[[Body], Body]:
    """An option that may be given again and again; its value is the mapping of all KEY=VALUE."""
    return click.option(name, multiple=True, metavar="KEY=VALUE", callback=_pairs, help=description)


def _pairs(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, object]:
    pairs = [pair.partition("=") for pair in given]
    for key, equals, _ in pairs:
        if not equals:
            raise ConfigError(
                f"{param.opts[0]} {key}: write it as key=value, such as endpoint_url=http://127.0.0.1:9000"
            )
    return {key: value for key, _, value in pairs}


storage = storage_option("--storage", "An fsspec option; a secret belongs in the environment instead.")
