"""The verb that makes training data of published datasets."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dr_pipeline.cli import verbs
from dr_pipeline.cli.output import DONE, emit, say, stoppable
from dr_pipeline.words import plural

if TYPE_CHECKING:
    from dr_pipeline.preparation.prepare import PreparedShard


@click.command("prepare", cls=verbs.Verb)
@click.argument(
    "kind", help="mscoco, docci, dci, gbc, sharegpt4v or recap-coco-30k (captions), or image-folder (labels)."
)
@click.argument("source", type=verbs.GivenPath(), shell_complete=verbs.files, help="The folder of what was downloaded.")
@click.argument("output", type=verbs.GivenPath(), shell_complete=verbs.files, help="A folder for the tars.")
@click.option("--images", type=verbs.GivenPath(), metavar="FOLDER", help="Where the images lie, if not in SOURCE.")
@click.option("--captions", metavar="SORT", help="dci: extended, short, complete; gbc: short, long, relation.")
@click.option("--split", metavar="NAME", help="mscoco: train or val, default both; docci: default train.")
@click.option("--permissive", is_flag=True, help="mscoco: only images under CC BY, BY-SA and BY-ND 2.0.")
@click.option("--samples-per-shard", type=verbs.WholeNumber(), default=1000, show_default=True, help="Samples a tar.")
@verbs.storage
@verbs.json_lines
def prepare(as_json: bool, **settings: Any) -> int:
    """Make tars to train a captioner or classifier on of a published dataset, or go on with them."""
    from dr_pipeline.config.jobfile import validate
    from dr_pipeline.config.preparation import Preparation
    from dr_pipeline.preparation.prepare import prepare

    def told(shard: "PreparedShard") -> None:
        if as_json:
            emit({"event": "shard", **asdict(shard)})
        else:
            say(f"{shard.name}: {plural(shard.samples, 'sample')}")

    with stoppable("run the same command again to go on behind the last tar"):
        shards = prepare(validate(Preparation, settings, "prepare"), told)
    skipped = sum((Counter(shard.skipped) for shard in shards), Counter[str]())
    samples = sum(shard.samples for shard in shards)
    if as_json:
        emit({"event": "prepared", "shards": len(shards), "samples": samples, "skipped": skipped})
    else:
        say(
            f"{settings['output']}: {plural(samples, 'sample')} in {plural(len(shards), 'tar')}; "
            f"{skipped.total()} of the source skipped"
        )
        for reason, count in skipped.most_common():
            say(f"  {reason}: {count}")
    return DONE
