"""Make again exactly what `verify` found damaged: single shards, the manifest's tables, config.json."""

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.dataset.paths import CONFIG, REPORTS, RUN, SAMPLES, SHARDS, OutputPaths, shard_of
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.dataset.reports import Reports
from dr_pipeline.errors import ConfigError
from dr_pipeline.networks.digests import with_digests
from dr_pipeline.runners.run import RunObserver, RunResult, execute
from dr_pipeline.storage import Lease, Storage
from dr_pipeline.verification.findings import Findings
from dr_pipeline.words import plural


def repair(job: Job, findings: Findings, observer: RunObserver) -> RunResult:
    """Withdraw the reports of the damaged shards, run these alone, and describe the dataset anew; all others stay.

    Raises ConfigError, before anything is touched, when the job is not the one that made the output, or does not name
    a damaged shard.
    """
    plan = make_plan(with_digests(job))
    job = plan.job
    storage, paths, reports = Storage(job.output.storage), OutputPaths(job.output.path), Reports.of(job)
    if CONFIG not in findings.bad_files:
        refusal = ConfigJson(job).refusal()
        if refusal:
            raise ConfigError(refusal)
    elif not reports.shards():  # a damaged config.json cannot say whose the output is, the reports' folder still can
        raise ConfigError("config.json is damaged, and there are no reports of this job: is it the one that ran here?")

    committed = {task.name for task in plan.done}
    damaged, strays = set[str](), set[str]()
    for file in findings.bad_files - {CONFIG, SHARDS}:
        if file.startswith(f"{REPORTS}/"):
            damaged.add(shard_of(file.split("/", 2)[2]))
        elif file.startswith(f"{SAMPLES}/"):
            name = shard_of(file.removeprefix(f"{SAMPLES}/"))
            (damaged if name in committed else strays).add(name)
        else:
            damaged.add(file)
    unknown = sorted(damaged - committed - {task.name for task in plan.todo})
    if unknown:
        shards = plural(len(unknown), "damaged shard")
        raise ConfigError(f"the job's input.shards does not name {shards}, first {unknown[0]}")

    with Lease(paths.root, RUN, storage).held() as lease:
        for name in damaged:
            reports.withdraw(name)
        for name in strays - damaged:  # of these there is nothing but a table of samples
            storage.delete(paths.samples(name))
        for file in findings.bad_files & {CONFIG, SHARDS}:
            storage.delete(f"{paths.root}/{file}")
        ConfigJson(job).claim(force=False)
        return execute(plan.only(damaged), lease, observer)
