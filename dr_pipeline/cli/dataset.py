"""The verbs that look into a dataset."""

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
class _Asked:
    """What `verify` is asked for: a field an option."""

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
@click.option("--deep", is_flag=True, help="Make some samples again by the recorded models.")
@click.option("--samples", type=verbs.WholeNumber(), default=64, show_default=True, help="How many, with --deep.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which, with --deep.")
@click.option("--base", metavar="SHARDS", help="The dataset that has the images, if this has none.")
@click.option("--base-match", default="uid", show_default=True, metavar="FIELD", help="Of both sides' json, or key.")
@verbs.storage_option("--base-storage", "As --storage, of the base.")
@click.option("--repair", is_flag=True, help="Make again, by the job, exactly what is damaged.")
@click.option("--job", metavar="JOB", shell_complete=verbs.files, help="The job that made it; overrides are its own.")
def verify(**options: Any) -> int:
    """Check every sample of a dataset against the contract and its reports."""
    from dr_pipeline.storage import Storage
    from dr_pipeline.verify.verify import verify

    asked = _Asked(**options)
    job = _job_of(asked)
    storage_options = job.output.storage if job else asked.storage
    storage = Storage(storage_options)
    base = _base(asked)
    findings = verify(asked.output, storage, base, job)
    if asked.deep:
        from dr_pipeline.verify.recompute import Choice, Dataset, recheck

        plugin_dirs = job.plugin_dirs if job else (".",)
        dataset = Dataset(storage.absolute(asked.output), storage_options, plugin_dirs, base)
        recheck(dataset, Choice(asked.samples, asked.seed), findings)
    if asked.as_json:
        emit(asdict(findings))
    else:
        say(str(findings))
    if findings.problems and job and asked.repair:
        from dr_pipeline.cli.reinforce import watched
        from dr_pipeline.verify.repair import repair

        return watched(lambda observer: repair(job, findings, observer), asked.as_json)
    return FAILURES if findings.problems else DONE


def _job_of(asked: _Asked) -> "Job | None":
    """The job that made the dataset, its output being the one that is verified. Raises ConfigError."""
    from dr_pipeline.cli.job import load_job
    from dr_pipeline.config.job import Job

    if asked.job is None:
        if asked.repair:
            raise ConfigError("--repair: say with --job which job file made the dataset: it knows the input")
        if asked.overrides:
            raise ConfigError(f"{' '.join(asked.overrides)}: overrides are of a job: say with --job which")
        return None
    job = load_job(asked.job, Job, asked.overrides)
    output = {"path": asked.output, "storage": {**job.output.storage, **asked.storage}}
    return job.model_copy(update={"output": job.output.model_copy(update=output)})


def _base(asked: _Asked) -> "BaseReader | None":
    """The dataset that images are looked up in. Raises ConfigError."""
    if not asked.base:
        if asked.base_match != "uid" or asked.base_storage:
            raise ConfigError("--base-match and --base-storage say how --base is used: name that dataset by --base too")
        return None
    from dr_pipeline.config.training import Base
    from dr_pipeline.dataset.base import BaseReader, open_index
    from dr_pipeline.storage import cache_folder

    try:
        base = Base(shards=asked.base, match=asked.base_match, storage=asked.base_storage)
        return BaseReader(open_index(base, cache_folder()))
    except (PipelineError, ValueError) as error:
        raise ConfigError(f"--base: {error}") from error


@click.command("inspect", cls=verbs.Verb)
@verbs.dataset
@verbs.storage
@click.option("--count", type=verbs.WholeNumber(), default=3, show_default=True, help="How many samples.")
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
    """Print the flags by which the released open_clip patch trains on a dataset."""
    from dr_pipeline.report.trainer_flags import trainer_flags
    from dr_pipeline.storage import Storage

    shown = trainer_flags(output, Storage(storage))
    say(str(shown))
    for remark in shown.remarks:
        say(f"note: {remark}", sys.stderr)
    return DONE
