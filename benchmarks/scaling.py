"""What a second worker brings on this machine, and what a second process of the bare models brings.

    python benchmarks/scaling.py [--quick]

A compute-bound job (ViT-B/32, 10 views of 224 px) on Ray with one worker and with two, each with one core. The clock
starts when all workers hold their models. Efficiency is the speed of two ÷ twice the speed of one. The machine's own:
processes that run the same models on tensors in memory, one against two that know nothing of each other. Two virtual
cores may be one core's hyperthreads, and then that is well below 1, whatever the pipeline does.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from contenders import Contender, Work, measure
from measure import figure
from photos import write_shards

ONE_WORKER = Contender("one worker", "own_job", workers=1, threads=1)
ONE_PROCESS = Contender("one process", "bare_models", workers=1, threads=1, writes=False)


def scaling(one: Contender, work: Work) -> tuple[float, float]:
    """Views/s of two and of one, in turn."""
    two = replace(one, workers=2)
    fast, slow = (work.total_views / measure(contender, work).loaded_s for contender in (two, one))
    return fast, slow


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the job scales to two workers.")
    parser.add_argument("--quick", action="store_true", help="one round of fewer samples")
    rounds, num_shards, samples = (1, 8, 1) if parser.parse_args().quick else (5, 16, 2)
    with tempfile.TemporaryDirectory() as name:
        shards = write_shards(Path(name) / "in", num_shards, samples)
        work = Work(shards, num_shards * samples, ("ViT-B-32",), view_size=224, num_views=10, samples_per_batch=samples)
        runs = [(scaling(ONE_WORKER, work), scaling(ONE_PROCESS, work)) for _ in range(rounds)]
    for label, pairs in zip(("workers", "processes of the bare models"), zip(*runs, strict=True), strict=True):
        two, one = (median(side) for side in zip(*pairs, strict=True))
        figure(f"views/s of two {label} ÷ twice that of one", two, one, median(a / b / 2 for a, b in pairs))
    ours, machines = ([two / one / 2 for two, one in pairs] for pairs in zip(*runs, strict=True))
    of_machine = median(a / b for a, b in zip(ours, machines, strict=True))
    figure("efficiency of two workers ÷ the machine's own", median(ours), median(machines), of_machine)


if __name__ == "__main__":
    main()
