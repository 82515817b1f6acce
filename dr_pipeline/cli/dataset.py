"""The verbs that read a dataset."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from dr_pipeline.cli import verbs
from dr_pipeline.cli.output import DONE, FAILURES, emit, say
from dr_pipeline.errors import ConfigError, PipelineError

if TYPE_CHECKING:
    from dr_pipeline.config.job import Job
    from dr_pipeline.dataset.base_index import BaseReader


@click.command("verify", cls=verbs.Verb)
@verbs.dataset
@verbs.overrides
@verbs.storage
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
@click.option("--deep", is_flag=True, help="Recompute some samples with the models of config.json, and compare.")
@click.option("--samples", type=verbs.WholeNumber(), default=64, show_default=True, help="Samples to recompute.")
@click.option("--seed", type=verbs.WholeNumber(0), default=0, show_default=True, help="Seed that picks these samples.")
@click.option(
    "--base", type=verbs.GivenPath(), metavar="SHARDS", help="Dataset that holds the images, where this one omits them."
)
@click.option("--base-match", default="uid", show_default=True, metavar="FIELD", help="Json field to match by, or key.")
@verbs.storage_option("--base-storage", "Like --storage, for the base.")
@click.option("--repair", is_flag=True, help="Redo exactly what is damaged; needs --job.")
@click.option(
    "--job", type=verbs.GivenPath(), metavar="JOB", shell_complete=verbs.files, help="Job file that made the dataset."
)
def verify(
    output: str,
    overrides: tuple[str, ...],
    storage: dict[str, object],
    as_json: bool,
    deep: bool,
    samples: int,
    seed: int,
    base: str | None,
    base_match: str,
    base_storage: dict[str, object],
    repair: bool,
    job: str | None,
) -> int:
    """Check every sample of a dataset against the contract and its reports."""
    from dr_pipeline.storage import Storage
    from dr_pipeline.verification.verify import verify

    if repair and not job:
        raise ConfigError("--repair needs --job, the job file that made the dataset: it says where the input lies")
    if overrides and not job:
        raise ConfigError(f"{' '.join(overrides)}: overrides change a job file: name it by --job")
    if not base and (base_match != "uid" or base_storage):
        raise ConfigError("--base-match and --base-storage say how to read the dataset that --base names: add --base")
    made_by = _load_job(job, overrides, output, storage) if job else None
    files = Storage(made_by.output.storage if made_by else storage)
    base_reader = _open_base(base, base_match, base_storage) if base else None
    findings = verify(output, files, base_reader, made_by)
    if deep:
        from dr_pipeline.verification.recompute import recompute

        plugin_dirs = made_by.plugin_dirs if made_by else (".",)
        recompute(output, files, findings, samples, seed, plugin_dirs, base_reader)
    if as_json:
        emit(asdict(findings))
    else:
        say(str(findings))
    if findings.problems and repair and made_by:
        from dr_pipeline.cli.reinforce import run_with_progress
        from dr_pipeline.verification.repair import repair as repair_dataset

        return run_with_progress(lambda display: repair_dataset(made_by, findings, display), as_json)
    return FAILURES if findings.problems else DONE


def _load_job(path: str, overrides: tuple[str, ...], output: str, storage: dict[str, object]) -> "Job":
    """The job that made the dataset, with the verified dataset as its output. Raises ConfigError."""
    from dr_pipeline.cli.job import load_job
    from dr_pipeline.config.job import Job

    job = load_job(path, Job, overrides)
    update = {"path": output, "storage": {**job.output.storage, **storage}}
    return job.model_copy(update={"output": job.output.model_copy(update=update)})


def _open_base(shards: str, match: str, storage: dict[str, object]) -> "BaseReader":
    """The dataset that holds the images. Raises ConfigError."""
    from dr_pipeline.config.training import Base
    from dr_pipeline.dataset.base_index import BaseReader, open_index
    from dr_pipeline.storage import cache_folder

    try:
        return BaseReader(open_index(Base(shards=shards, match=match, storage=storage), cache_folder()))
    except (PipelineError, ValueError) as error:
        raise ConfigError(f"--base: {error}") from error


@click.command("inspect", cls=verbs.Verb)
@verbs.dataset
@verbs.storage
@click.option("--count", type=verbs.WholeNumber(), default=3, show_default=True, help="Number of samples.")
@click.option("--key", metavar="KEY", help="One sample, wherever it lies; a skipped one tells why.")
@click.option("--shard", metavar="NAME", help="The shard whose first samples are shown, in place of the first.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a sample, with all that is known of it.")
@click.option(
    "--views",
    type=verbs.GivenPath(),
    metavar="FILE.png",
    shell_complete=verbs.files,
    help="Draw the samples and their views, too.",
)
def inspect(
    output: str,
    storage: dict[str, object],
    count: int,
    key: str | None,
    shard: str | None,
    as_json: bool,
    views: str | None,
) -> int:
    """Show the captions of the first samples of a dataset."""
    from dr_pipeline.report.inspect import inspect
    from dr_pipeline.storage import Storage

    inspection = inspect(output, Storage(storage), count, key, shard)
    if unfinished := inspection.reader.unfinished:
        say(f"note: {unfinished}", sys.stderr)
    if views is not None:
        from dr_pipeline.report.contact_sheet import write_sheet

        inspection = write_sheet(views, inspection)
    if not as_json:
        for line in inspection.lines:
            say(line)
        if views is not None:
            say(f"{views}: the contact sheet of these samples")
        return DONE
    code = DONE
    for shown in inspection.samples:
        emit(shown.record.to_json())
        code = FAILURES if shown.record.problem else code
    return code


@click.command("trainer-flags", cls=verbs.Verb)
@verbs.dataset
@verbs.storage
def trainer_flags(output: str, storage: dict[str, object]) -> int:
    """Print the flags with which the released open_clip patch trains on a dataset."""
    from dr_pipeline.report.trainer_flags import trainer_flags
    from dr_pipeline.storage import Storage

    flags = trainer_flags(output, Storage(storage))
    say(str(flags))
    for remark in flags.remarks:
        say(f"note: {remark}", sys.stderr)
    return DONE
