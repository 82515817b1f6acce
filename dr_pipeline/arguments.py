"""What the command line takes: the verbs, and the options of each."""

import argparse
import sys

from dr_pipeline.errors import nearest
from dr_pipeline.shown import printable


def parse(arguments: list[str]) -> argparse.Namespace:
    """The verb and its options. Overrides may also stand behind options.

    A mistyped verb is answered with the nearest. Raises SystemExit as argparse does.
    """
    parser, verbs = _parser()
    first = next(iter(arguments), "")
    if first and not first.startswith("-") and first not in verbs:
        parser.error(f"no verb {printable(first)!r}{nearest(first, verbs)}; there are {', '.join(verbs)}")
    options, others = parser.parse_known_args(arguments)
    if any(other.startswith("-") or not hasattr(options, "overrides") for other in others):
        parser.error(f"unrecognized arguments: {printable(' '.join(others))}")
    if others:
        options.overrides += others
    return options


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and its verbs."""
    parser = argparse.ArgumentParser(prog="dr-pipeline", description=sys.modules["dr_pipeline"].__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, summary: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=summary, description=summary)
        added.add_argument("--no-plugins", action="store_true", help="refuse code that is not this package's own")
        return added

    for name, summary in (
        ("run", "reinforce the shards that are not done yet"),
        ("train", "train a student on a reinforced dataset, or go on with its run"),
        ("evaluate", "measure a model: zero-shot classification and retrieval"),
        ("tune-logit-scale", "find each teacher's best logit scale by short training runs with it alone"),
        ("plan", "show what a run would do, and what would be refused; starts and writes nothing"),
    ):
        added = verb(name, summary)
        added.add_argument("job", help="a job file (YAML), or package://jobs/NAME.yaml of the recipes")
        added.add_argument("overrides", nargs="*", metavar="key.path=value", help="fields of the job to replace")
        added.add_argument("--json", action="store_true", help="JSON lines on standard output, for machines")
        if name == "run":
            added.add_argument("--force", action="store_true", help="redo an output that another configuration made")
            added.add_argument("--retry-failed", action="store_true", help="only shards that the last run gave up")
    for name, summary in (
        ("verify", "check every sample of a dataset against the contract and its reports"),
        ("inspect", "show the captions of the first samples of a dataset"),
        ("trainer-flags", "print the flags by which the released open_clip patch trains on a dataset"),
    ):
        added = verb(name, summary)
        added.add_argument("output", help="a dataset's folder, or one tar")
        added.add_argument("--storage", action="append", default=[], metavar="KEY=VALUE", help="an fsspec option")
        if name == "verify":
            added.add_argument("--json", action="store_true", help="one JSON object, for machines")
            added.add_argument("--deep", action="store_true", help="make some samples again by the recorded models")
            added.add_argument("--samples", type=_whole_number, default=64, help="how many, with --deep")
            added.add_argument("--seed", type=int, default=0, help="which, with --deep")
            added.add_argument("--base", metavar="SHARDS", help="the dataset that has the images, if this has none")
            added.add_argument("--base-match", default="uid", metavar="FIELD", help="of the json of both sides, or key")
            added.add_argument("--base-storage", action="append", default=[], metavar="KEY=VALUE", help="as --storage")
            added.add_argument("--repair", action="store_true", help="make again, by the job, exactly what is damaged")
            added.add_argument("--job", nargs="+", metavar="JOB", help="the job that made it, and its overrides")
        elif name == "inspect":
            added.add_argument("--count", type=_whole_number, default=3, help="how many samples")
    check = verb("check-teacher", "tell what is wrong with a teacher or captioner, before a job does")
    check.add_argument("card", help="a card (YAML), or package://teachers/NAME.yaml of the recipes")
    init = verb("init", "copy the recipes that come with the package, jobs/ and teachers/, into a folder")
    init.add_argument("folder", nargs="?", default=".", metavar="DIR", help="where to; default: the working folder")
    return parser, list(verbs.choices)


def _whole_number(text: str) -> int:
    """A count from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is no whole number from 1 on")
    return int(text)
