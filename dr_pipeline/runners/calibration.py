"""Measures a job on this machine: its models one by one, and then a whole worker, on samples of one shard.

Nothing is written to the output.
"""

import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import PurePath

from dr_pipeline.config.job import Job
from dr_pipeline.config.planning import Assumptions, ModelTimes, RequestTokens
from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardTask
from dr_pipeline.errors import ConfigError, nearest
from dr_pipeline.models.checks.speed import on
from dr_pipeline.networks.device import pick_device
from dr_pipeline.reinforce.model_times import ModelTimer
from dr_pipeline.report.preview import Calibration, Measured
from dr_pipeline.report.sample_time import (
    Models,
    decodings,
    model_ms,
    renders_on_device,
    sample_time,
    standard_values,
    standard_views,
)
from dr_pipeline.runners.resources import local_workers
from dr_pipeline.runners.steady_run import ShardSamples, SteadyRun, run_steadily
from dr_pipeline.storage import Storage
from dr_pipeline.words import plural

log = logging.getLogger(__name__)

_ON_CPU_SAMPLES = 32
"""Models are timed on so many samples, and on a GPU on those of a captioner's batch."""
_LEAST = 1e-4
"""What takes no time that a clock sees."""


def calibrate(plan: Plan, shard: str, models: Models) -> tuple[Job, Calibration]:
    """Measure a plan's job, with the workers that it has there, on the first samples of one of its shards.

    Gives the plan's job with what was measured and with what the loaded teachers say of themselves, and the figures.
    Raises ConfigError, ModelError or PipelineError where the shard, a model or this machine cannot be used for it.
    """
    begun, task = time.perf_counter(), find_shard(plan, shard)
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    job = _on_this_machine(plan.job)
    if models.by_request:
        log.warning("--calibrate asks the endpoints of %s, which may cost money", ", ".join(models.by_request))
    samples, device = ShardSamples(job, task), pick_device()
    num_decoded = _ON_CPU_SAMPLES if device.type == "cpu" else job.workers.batches(device.type).captions
    timer = ModelTimer(job, samples.decoded(num_decoded))
    times = timer.time()
    steady = run_steadily(job, samples)
    job = job.model_copy(update={"teachers": steady.teachers})
    usage: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for requests in (timer.usage, *(report.usage for report in (*steady.counted, *steady.others))):
        for key, used in requests.items():
            usage[key].update(used)
    measured = _measured(job, models, times, steady)
    measured = measured.model_copy(update={"tokens": job.assumptions.tokens | _tokens(usage)})
    calibration = Calibration(
        shard=task.name,
        device=on(device, job.workers.precision),
        num_samples=steady.num_samples,
        num_skipped=sum(report.num_skipped for report in steady.counted),
        seconds=time.perf_counter() - begun,
        load=load,
        figures=tuple(_figures(job, measured, models)),
        assumptions=measured.model_dump(exclude_defaults=True),
        usage={key: dict(used) for key, used in usage.items()},
    )
    return _with(plan.job.model_copy(update={"teachers": steady.teachers}), measured), calibration


def find_shard(plan: Plan, shard: str) -> ShardTask:
    """The shard of the plan that has this name in the output, this address, or this path. Raises ConfigError."""
    tasks, path = (*plan.todo, *plan.done), Storage(plan.job.input.storage).absolute(shard)
    found = [task for task in tasks if shard in (task.name, task.uri) or task.uri == path]
    found = found or [task for task in tasks if PurePath(task.uri).name == shard]
    if len(found) != 1:
        names = [task.name for task in found or tasks]
        several = f"several shards are called so: {', '.join(names[:3])}: give the whole name"
        why = several if found else f"no shard of the job's input{nearest(shard, names) or f', such as {names[0]}'}"
        raise ConfigError(f"--calibrate {shard}: {why}")
    return found[0]


def _on_this_machine(job: Job) -> Job:
    """The job with the worker that this process can be. Raises ConfigError where the run's have another device."""
    here, wanted = pick_device().type, job.workers.num_gpus
    if bool(wanted) != (here != "cpu"):
        raise ConfigError(
            f"--calibrate: the run's workers have {plural(wanted, 'GPU')} each, and this process sees "
            + ("none: measure where a worker would run, or say workers.gpus=0" if wanted else "one: hide it from it")
        )
    return job.model_copy(update={"workers": local_workers(job.workers)})


def _measured(job: Job, models: Models, times: Mapping[str, ModelTimes], steady: SteadyRun) -> Assumptions:
    """The job's assumptions with what was measured; `overhead` is what the parts do not explain."""
    views, values = standard_views(job), standard_values(job)
    stages = {
        "decode_ms": steady.ms_of("read", "decode", "tokenize") / decodings(job),
        "write_ms": steady.ms_of("encode", "write") / values if values else job.assumptions.write_ms,
        "start_s": steady.start_s,
    }
    if not renders_on_device(job):
        stages["view_ms"] = steady.ms_of("draw", "render") / views
    parts = {
        **{name: max(_round(value), _LEAST) for name, value in stages.items()},
        "models": {
            name: ModelTimes(**{part: _round(ms) for part, ms in of_model.model_dump().items()})
            for name, of_model in times.items()
        },
        "overhead": 1.0,
    }
    assumptions = job.assumptions.model_copy(update=parts)
    explained = sample_time(_with(job, assumptions), Models(by_request=models.by_request), moved_bytes=0).sample_ms
    sample_ms = 1000 * steady.seconds / steady.num_samples
    return assumptions.model_copy(update={"overhead": _round(sample_ms / explained)})


def _tokens(usage: Mapping[str, Mapping[str, float]]) -> dict[str, RequestTokens]:
    """What a request took on average, by key; none where an endpoint does not say."""
    tokens = {}
    for key, used in usage.items():
        answered = used["requests"] - used["retries"]
        if answered > 0 and used["prompt_tokens"]:
            prompt, completion = used["prompt_tokens"] / answered, used["completion_tokens"] / answered
            tokens[key] = RequestTokens(prompt=_round(prompt), completion=_round(completion))
    return tokens


def _figures(job: Job, measured: Assumptions, models: Models) -> Iterator[Measured]:
    """What was measured beside what was assumed, the samples that a worker does in a second first."""
    new = _with(job, measured)
    before, after = (sample_time(one, models, moved_bytes=0) for one in (job, new))
    yield Measured("samples/s of a worker", 1000 / after.sample_ms, 1000 / before.sample_ms)
    for card in {card.name: card for card in job.cards}.values():
        known = job.assumptions.models.get(card.name)
        if card.name in models.by_request:
            answered_ms = measured.models[card.name].text_ms
            yield Measured(f"{card.name}, ms a request", answered_ms, known.text_ms if known else None)
        else:
            assumed_ms = model_ms(job, card, models.costs.get(card.name))
            yield Measured(f"{card.name}, ms a sample", model_ms(new, card, None), assumed_ms or None)
    for name in ("decode_ms", "view_ms", "write_ms", "overhead", "start_s"):
        if name != "view_ms" or not renders_on_device(job):
            yield Measured(name, getattr(measured, name), getattr(job.assumptions, name))


def _with(job: Job, assumptions: Assumptions) -> Job:
    return job.model_copy(update={"assumptions": assumptions})


def _round(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")
