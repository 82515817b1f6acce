"""The verbs that read a dataset."""

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from dr_pipeline.cli import verbs
from dr_pipeline.cli.output import DONE, FAILURES, emit, say
from dr_pipeline.errors import ConfigError, PipelineError

if TYPE_CHECKING:
    from dr_pipeline.config.job import Job
    from dr_pipeline.dataset.base import BaseReader


@dataclass(frozen=True)
class _VerifyOptions:
    """The words of `verify`, a field each."""

    output: str
    storage: dict[str, object]
    as_json: bool
    deep: bool
    samples: int
    seed: int
    base: str | None
    base_match: str
    base_storage: dict[str, object]
    repair: bool
    job: str | None
    overrides: tuple[str, ...]


@click.command("verify", cls=verbs.Verb)
@verbs.dataset
@verbs.overrides
@verbs.storage
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
@click.option("--deep", is_flag=True, help="Recompute some samples with the models of config.json, and compare.")
@click.option("--samples", type=verbs.WholeNumber(), default=64, show_default=True, help="Samples to recompute.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed that picks these samples.")
@click.option("--base", metavar="SHARDS", help="Dataset that holds the images, where this one omits them.")
@click.option("--base-match", default="uid", show_default=True, metavar="FIELD", help="Json field to match by, or key.")
@verbs.storage_option("--base-storage", "Like --storage, for the base.")
@click.option("--repair", is_flag=True, help="Redo exactly what is damaged; needs --job.")
@click.option("--job", metavar="JOB", shell_complete=verbs.files, help="Job file that made the dataset.")
def verify(**words: Any) -> int:
    """Check every sample of a dataset against the contract and its reports."""
    from dr_pipeline.storage import Storage
    from dr_pipeline.verify.verify import verify

    options = _VerifyOptions(**words)
    job = _load_job(options)
    storage_options = job.output.storage if job else options.storage
    storage = Storage(storage_options)
    base = _open_base(options)
    findings = verify(options.output, storage, base, job)
    if options.deep:
        from dr_pipeline.verify.recompute import Choice, RecordedDataset, recompute

        plugin_dirs = job.plugin_dirs if job else (".",)
        dataset = RecordedDataset(storage.absolute(options.output), storage_options, plugin_dirs, base)
        recompute(dataset, Choice(options.samples, options.seed), findings)
    if options.as_json:
        emit(asdict(findings))
    else:
        say(str(findings))
    if findings.problems and job and options.repair:
        from dr_pipeline.cli.reinforce import run_with_progress
        from dr_pipeline.verify.repair import repair

        return run_with_progress(lambda display: repair(job, findings, display), options.as_json)
    return FAILURES if findings.problems else DONE


def _load_job(options: _VerifyOptions) -> "Job | None":
    """The job that made the dataset, with the verified dataset as its output; None where it is not named.

    Raises ConfigError.
    """
    from dr_pipeline.cli.job import load_job
    from dr_pipeline.config.job import Job

    if options.job is None:
        if options.repair:
            raise ConfigError("--repair: say with --job which job file made the dataset: it knows the input")
        if options.overrides:
            raise ConfigError(f"{' '.join(options.overrides)}: overrides are of a job: say with --job which")
        return None
    job = load_job(options.job, Job, options.overrides)
    output = {"path": options.output, "storage": {**job.output.storage, **options.storage}}
    return job.model_copy(update={"output": job.output.model_copy(update=output)})


def _open_base(options: _VerifyOptions) -> "BaseReader | None":
    """The dataset that holds the images; None where it is not named. Raises ConfigError."""
    if not options.base:
        if options.base_match != "uid" or options.base_storage:
            raise ConfigError("--base-match and --base-storage say how --base is used: name that dataset by --base too")
        return None
    from dr_pipeline.config.training import Base
    from dr_pipeline.dataset.base import BaseReader, open_index
    from dr_pipeline.storage import cache_folder

    try:
        base = Base(shards=options.base, match=options.base_match, storage=options.base_storage)
        return BaseReader(open_index(base, cache_folder()))
    except (PipelineError, ValueError) as error:
        raise ConfigError(f"--base: {error}") from error


@click.command("inspect", cls=verbs.Verb)
@verbs.dataset
@verbs.storage
@click.option("--count", type=verbs.WholeNumber(), default=3, show_default=True, help="Number of samples.")
def inspect(output: str, storage: dict[str, object], count: int) -> int:
    """Show the captions of the first samples of a dataset."""
    from dr_pipeline.report.inspect import inspect
    from dr_pipeline.storage import Storage

    for line in inspect(output, Storage(storage), count):
        say(line)
    return DONE


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
