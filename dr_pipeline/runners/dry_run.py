"""A dry run: what a run would do, with which workers, and why it would be refused. Nothing is written."""

from dataclasses import replace

from dr_pipeline.config.job import Job, Workers
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.errors import PipelineError
from dr_pipeline.models.by_request import requests_at_once, writes_by_request
from dr_pipeline.models.cards import card_cost, check_sizes
from dr_pipeline.networks.cost import Cost
from dr_pipeline.networks.device import pick_device
from dr_pipeline.networks.digests import with_digests
from dr_pipeline.reinforce.preflight import preflight
from dr_pipeline.report.budget import budget_of, check_prices
from dr_pipeline.report.preview import Preview, preview
from dr_pipeline.report.sample_time import Models
from dr_pipeline.runners.resources import local_workers
from dr_pipeline.words import plural


def dry_run(job: Job, shard: str | None = None, amount: float | None = None) -> Preview:
    """Plan the run, and look at its models, its first samples and its workers. Raises ConfigError as a run does.

    Args:
        job: the job.
        shard: one of its input, on which the job is measured first; where a run would be refused it is not.
        amount: a budget, in the currency of the job's prices.
    """
    if amount is not None:
        check_prices(job, amount)
    plan = make_plan(with_digests(job))
    job, dirs = plan.job, plan.job.plugin_dirs
    costs, faults = _costs(job)
    by_request = {card.name: requests_at_once(card, dirs) for card in job.writers if writes_by_request(card, dirs)}
    models = Models(costs, by_request)
    samples = preflight(plan)
    workers, described, warnings = _workers(job.workers, len(plan.todo))
    teachers = tuple(
        card if card.dim or not (cost := costs.get(card.name)) else card.model_copy(update={"dim": cost.dim})
        for card in job.teachers
    )
    plan = replace(plan, job=job.model_copy(update={"workers": workers, "teachers": teachers}))
    refused, warnings = [*faults, *samples.refused], [*samples.warnings, *warnings]
    calibration = None
    if shard is not None and refused:
        warnings.append(f"--calibrate {shard}: nothing was measured, since a run would be refused")
    elif shard is not None:
        from dr_pipeline.runners.calibration import calibrate  # a worker, with all that computes in it

        measured, calibration = calibrate(plan, shard, models)
        plan = replace(plan, job=measured)
    found = replace(preview(plan, models, described, refused, warnings), calibration=calibration)
    return found if amount is None else _with_budget(found, plan.job, models, amount)


def _with_budget(found: Preview, job: Job, models: Models, amount: float) -> Preview:
    if found.work is None:
        none = f"--budget {amount:g}: no samples are left to do, or none could be counted: nothing was estimated"
        return replace(found, warnings=(*found.warnings, none))
    return replace(found, budget=budget_of(job, found.work, models, amount))


def _costs(job: Job) -> tuple[dict[str, Cost | None], list[str]]:
    """What each model costs by card name, and what is wrong with the cards."""
    costs: dict[str, Cost | None] = {}
    faults = []
    for card in job.cards:
        try:
            costs[card.name] = cost = card_cost(card, job.plugin_dirs)
            if cost is not None:
                check_sizes(card, cost, job.augmentation)
        except PipelineError as error:
            faults.append(f"card {card.name}: {error}")
    return costs, faults


def _workers(declared: Workers, num_shards: int) -> tuple[Workers, str, list[str]]:
    """The workers that a run would have, described, and what it would lack on this machine. Raises ConfigError."""
    if declared.engine == "local":
        gpus = 0 if pick_device().type == "cpu" else 1
        workers = local_workers(declared).model_copy(update={"min": 1, "max": 1, "gpus": gpus})
        device = "a GPU" if gpus else "no GPU"
        return workers, f"1 in this process, of {plural(workers.num_cpus, 'thread')} and {device}", []
    from dr_pipeline.runners.cluster import workers_of_a_run

    workers, where, refusal = workers_of_a_run(declared)
    each = f"each with {plural(workers.num_cpus, 'CPU')} and {plural(workers.num_gpus, 'GPU')}"
    described = f"up to {min(workers.max, num_shards):,} on Ray, {each}, {where}"
    return workers, described, [f"a run here: {refusal}"] if refusal else []
