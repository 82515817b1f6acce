"""The verbs of recipes: one checks a model's card, one copies the package's recipes."""

from pathlib import Path

import click

from dr_pipeline.cli import verbs
from dr_pipeline.cli.output import DONE, FAILURES, say
from dr_pipeline.errors import ConfigError


@click.command("check-teacher", cls=verbs.Verb)
@click.argument(
    "card", type=verbs.GivenPath(), shell_complete=verbs.files, help="A card (YAML), or package://teachers/NAME.yaml."
)
def check_teacher(card: str) -> int:
    """Tell what a teacher or captioner can do, and check it before a job uses it."""
    from dr_pipeline.cli.job import wrong_verb
    from dr_pipeline.config.cards import CaptionerCard, TeacherCard
    from dr_pipeline.config.jobfile import load_card
    from dr_pipeline.config.plugins import load_class
    from dr_pipeline.config.recipes import located, plugin_folders
    from dr_pipeline.models.cards import CardOfEitherKind
    from dr_pipeline.models.check import check_captioner, check_teacher

    plugin_dirs = (".", *map(str, plugin_folders(located(card))))
    try:
        use = load_card(card, CardOfEitherKind).use
    except ConfigError as error:
        raise wrong_verb(card, TeacherCard) or error from None
    if hasattr(load_class(use, plugin_dirs), "caption"):
        checked = check_captioner(load_card(card, CaptionerCard), plugin_dirs)
    else:
        checked = check_teacher(load_card(card, TeacherCard), plugin_dirs)
    if checked.ability:
        say(f"{card}: {checked.ability}")
    for problem in checked.problems:
        say(problem)
    say(f"{card}: {len(checked.problems)} problems" if checked.problems else f"{card}: ready to teach")
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
    say(f"{len(new)} recipes copied from {recipes_folder()} to {folder}: jobs/ and teachers/")
    for path in differing:
        say(f"{path} differs from the package's, and was left as it is")
    return DONE
