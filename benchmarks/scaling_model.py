"""The table of docs/scaling.md: what reinforcing DFN-2B takes on 8, 64 and 512 GPUs, by the estimate of `plan`.

    python benchmarks/scaling_model.py [key.path=value …]

The job is jobs/reinforce_dfn2b.yaml; overrides are those of the command line, such as assumptions.gpu_tflops=300.
Nothing is run or listed.
"""

import sys
from pathlib import Path

from measure import figure

from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load
from dr_pipeline.models.cards import card_cost
from dr_pipeline.report.estimate import Estimate, Work, estimate, stored_bytes
from dr_pipeline.report.sample_time import Models

JOB = Path(__file__).parent.parent / "jobs" / "reinforce_dfn2b.yaml"
GPUS = (8, 64, 512)
NUM_SAMPLES, SHARD_SAMPLES = 1_900_000_000, 10_000
INPUT_BYTES_PER_SAMPLE = 34_000
"""The paper's table 14: 65 TB of images and alt-texts."""
WORK = Work(NUM_SAMPLES, NUM_SAMPLES // SHARD_SAMPLES, NUM_SAMPLES * INPUT_BYTES_PER_SAMPLE)


def table(overrides: list[str]) -> list[tuple[str, list[str]]]:
    """Rows of the table: what, and its value for each number of GPUs."""
    job = load(JOB, Job, overrides)
    models = Models({card.name: card_cost(card) for card in (*job.captioners, *job.teachers)})
    found = [
        estimate(job.model_copy(update={"workers": job.workers.model_copy(update={"max": gpus})}), WORK, models)
        for gpus in GPUS
    ]
    stored = stored_bytes(job, WORK)
    return [
        ("GPUs", [f"{each.num_workers:,}" for each in found]),
        ("hours", [_hours(each) for each in found]),
        ("GPU-hours", [f"{each.worker_hours:,.0f}" for each in found]),
        ("cores a GPU", [f"{each.cores_to_keep_up:.2f}" for each in found]),
        ("a GPU reads / writes", [_rates(each, each.num_workers, 1e6, "MB/s") for each in found]),
        ("all read / write", [_rates(each, 1, 1e9, "GB/s") for each in found]),
        ("store: reads / writes a second", [f"{each.reads_per_s:,.3g} / {each.writes_per_s:,.3g}" for each in found]),
        ("requests in all: reads / writes", [_requests(each) for each in found]),
        ("shards a second", [f"{each.shards_per_s:,.3g}" for each in found]),
        ("listings", [f"{each.num_listings:,}" for each in found]),
        ("stored, TB", [f"{stored / 1e12:,.0f}"] * len(found)),
    ]


def _hours(found: Estimate) -> str:
    return f"{found.hours:,.1f}" if found.hours < 100 else f"{found.hours:,.0f} ({found.hours / 24:,.0f} days)"


def _requests(found: Estimate) -> str:
    return f"{found.num_reads / 1e6:,.2g} / {found.num_writes / 1e6:,.2g} M"


def _rates(found: Estimate, shared_by: int, unit: float, name: str) -> str:
    read, written = found.read_bytes_per_s / shared_by / unit, found.written_bytes_per_s / shared_by / unit
    return f"{read:,.3g} / {written:,.3g} {name}"


def main() -> None:
    """The table in Markdown, then a sample's times as figures."""
    for what, values in table(sys.argv[1:]):
        print(f"| {what} | {' | '.join(values)} |")
        if what == "GPUs":
            print("| --- " * (len(values) + 1) + "|")
    job = load(JOB, Job, sys.argv[1:])
    models = Models({card.name: card_cost(card) for card in (*job.captioners, *job.teachers)})
    found = estimate(job, WORK, models)
    figure("a sample on a GPU, ms", found.device_ms)
    figure("of that captions, ms", found.caption_ms)
    figure("a sample on a core, ms", found.cpu_ms)
    figure(f"workers at which {found.first_limit} is short", found.first_limit_workers)


if __name__ == "__main__":
    main()
