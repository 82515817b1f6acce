"""The verbs of recipes: one checks a model's card, one copies the package's recipes."""

from pathlib import Path

import click

from dr_pipeline.cli import verbs
from dr_pipeline.cli.output import DONE, FAILURES, say
from dr_pipeline.errors import ConfigError
from dr_pipeline.words import plural


@click.command("check-teacher", cls=verbs.Verb)
@click.argument(
    "card",
    type=verbs.GivenPath(),
    shell_complete=verbs.files_and_recipes,
    help="A card (YAML), or package://teachers/NAME.yaml.",
)
@click.option(
    "--batch",
    type=verbs.WholeNumber(),
    help="Inputs at once when the speed is measured; default: a job's on a GPU, fewer on a CPU.",
)
def check_teacher(card: str, batch: int | None) -> int:
    """Tell what a model of a card can do and how fast, and check it before a job uses it."""
    from dr_pipeline.cli.job import wrong_verb
    from dr_pipeline.config.cards import TeacherCard
    from dr_pipeline.config.jobfile import load_card
    from dr_pipeline.models.cards import CardOfEitherKind

    try:
        load_card(card, CardOfEitherKind)
    except ConfigError as error:
        raise wrong_verb(card, TeacherCard) or error from None

    from dr_pipeline.models.checks import check_card

    checked = check_card(card, batch)
    width = max(map(len, checked.facts), default=0)
    for subject, fact in checked.facts.items():
        say(f"{subject:<{width}}  {fact}")
    for index, problem in enumerate(checked.problems, start=1):
        say(f"problem {index}: {problem}")
    number = len(checked.problems)
    say(f"{card}: {plural(number, 'problem')}" if number else f"{card}: ready")
    return FAILURES if checked.problems else DONE


@click.command("init", cls=verbs.Verb)
@click.argument(
    "folder",
    type=verbs.GivenPath(),
    default=".",
    metavar="[DIR]",
    help="Where to copy to; default: the working folder.",
)
def init(folder: str) -> int:
    """Copy the recipes that come with the package, jobs/ and teachers/, into a folder."""
    from dr_pipeline.config.recipes import copy_recipes, recipes_folder

    if "://" in folder:
        raise ConfigError(f"{folder}: the recipes are copied to a folder of this machine, not to a URL")
    new, differing = copy_recipes(Path(folder))
    if new:
        say(f"{plural(len(new), 'recipe')} copied from {recipes_folder()} to {folder}: jobs/ and teachers/")
    else:
        say(f"no recipe copied: {folder} has all of them, in jobs/ and teachers/")
    for path in differing:
        say(f"{path} differs from the package's, and was left as it is")
    return DONE
