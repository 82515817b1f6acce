"""A run without the run: what it would do, with which workers, and why it would be refused. Nothing is written."""

from dataclasses import replace

from dr_pipeline.config.job import Job, Workers
from dr_pipeline.dataset.plan import Plan, make_plan
from dr_pipeline.errors import PipelineError
from dr_pipeline.models.cards import card_cost, check_sizes
from dr_pipeline.networks.cost import Cost
from dr_pipeline.networks.digests import with_digests
from dr_pipeline.reinforce.preflight import foresee
from dr_pipeline.report.preview import Preview, preview
from dr_pipeline.runners import resources


def rehearse(job: Job) -> Preview:
    """Plan the run, look at its models, its first samples and its workers. Raises ConfigError as a run does."""
    plan = make_plan(with_digests(job))
    costs, wrong = _costs(plan.job)
    foreseen = foresee(plan)
    workers, used, lacking = _workers(plan)
    plan = replace(plan, job=plan.job.model_copy(update={"workers": workers}))
    shown = preview(plan, costs, [*wrong, *foreseen.refused], [*foreseen.warnings, *lacking])
    return replace(shown, workers=used)


def _costs(job: Job) -> tuple[dict[str, Cost | None], list[str]]:
    """What each model costs by card name, and what is wrong with the cards."""
    costs: dict[str, Cost | None] = {}
    wrong = []
    for card in (*job.captioners, *job.teachers):
        try:
            costs[card.name] = cost = card_cost(card, job.plugin_dirs)
            if cost is not None:
                check_sizes(card, cost, job.augmentation)
        except PipelineError as error:
            wrong.append(f"card {card.name}: {error}")
    return costs, wrong


def _workers(plan: Plan) -> tuple[Workers, str, list[str]]:
    """The workers that a run would have, in words too, and what it would lack here. Raises ConfigError."""
    declared, num_shards = plan.job.workers, len(plan.todo)
    if declared.engine == "local":
        workers = resources.local_workers(declared)
        return workers, resources.shown(workers, num_shards, ""), []
    from dr_pipeline.runners.cluster import foreseen

    workers, where, lacking = foreseen(declared)
    return workers, resources.shown(workers, num_shards, where), [f"a run here: {lacking}"] if lacking else []
