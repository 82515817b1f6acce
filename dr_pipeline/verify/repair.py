"""Make again exactly what `verify` found damaged: single shards, the manifest's tables, config.json."""

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.dataset.paths import CONFIG, REPORTS, RUN, SAMPLES, SHARDS, OutputPaths, shard_of
from dr_pipeline.dataset.plan import Plan, make_plan
from dr_pipeline.dataset.reports import Reports
from dr_pipeline.errors import ConfigError
from dr_pipeline.networks.digests import with_digests
from dr_pipeline.runners.run import RunObserver, RunResult, execute
from dr_pipeline.storage import Lease, Storage
from dr_pipeline.verify.findings import Findings


def repair(job: Job, findings: Findings, observer: RunObserver) -> RunResult:
    """Withdraw the reports of the damaged shards, run these alone, and describe the dataset anew; all others stay.

    Raises ConfigError, before anything is touched, when the job is not the one that made the output, or does not name
    a damaged shard.
    """
    plan = make_plan(with_digests(job))
    storage, paths = Storage(plan.job.output.storage), OutputPaths(plan.job.output.path)
    _check_job(plan.job, findings)
    again, strays = _damaged_shards(plan, findings)
    with Lease(paths.root, RUN, storage).held() as lease:
        for name in again:
            Reports.of(plan.job).withdraw(name)
        for name in strays:
            storage.delete(paths.samples(name))
        for file in findings.bad_files & {CONFIG, SHARDS}:
            storage.delete(f"{paths.root}/{file}")
        ConfigJson(plan.job).claim(force=False)
        return execute(plan.only(again), lease, observer)


def _check_job(job: Job, findings: Findings) -> None:
    """A damaged config.json cannot say whose the output is; the folder of the reports still can."""
    if CONFIG not in findings.bad_files:
        refusal = ConfigJson(job).refusal()
        if refusal:
            raise ConfigError(refusal)
    elif not Reports.of(job).shards():
        raise ConfigError("config.json is damaged, and there are no reports of this job: is it the one that ran here?")


def _damaged_shards(plan: Plan, findings: Findings) -> tuple[set[str], set[str]]:
    """The shards to make again, and those of which there is nothing but a table of samples."""
    named = {task.name for task in (*plan.todo, *plan.done)}
    committed = {task.name for task in plan.done}
    again, strays = set[str](), set[str]()
    for file in findings.bad_files - {CONFIG, SHARDS}:
        if file.startswith(f"{SAMPLES}/"):
            name = shard_of(file.removeprefix(f"{SAMPLES}/"))
            (again if name in committed else strays).add(name)
        elif file.startswith(f"{REPORTS}/"):
            again.add(shard_of(file.split("/", 2)[2]))
        else:
            again.add(file)
    unknown = sorted(again - named)
    if unknown:
        raise ConfigError(f"the job's input.shards does not name {len(unknown)} damaged shards, first {unknown[0]}")
    return again, strays - again
