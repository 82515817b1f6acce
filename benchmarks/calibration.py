"""How near a calibrated plan is to the run that follows it: the demo's job on one machine.

    python benchmarks/calibration.py [--quick]

The plan is `plan --calibrate` of one of the shards, with the local engine; then the job runs in this process, models
loaded anew. Each round plans and runs; the ratios are medians over rounds: the planned time by the time that passed
from the start of the models' loading to the last shard, the same of the plan without a calibration, and the time that
a calibration takes by that of the run. A line on standard error tells of each round.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from measure import figure

from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load
from dr_pipeline.demo.scenes import write_scenes
from dr_pipeline.runners.dry_run import dry_run
from dr_pipeline.runners.run import run

JOB = Path(__file__).parent.parent / "jobs" / "quickstart.yaml"


def planned_seconds(job: Job, shard: str | None = None) -> float:
    """The run's time by the plan."""
    cost = dry_run(job, shard).cost
    assert cost is not None
    return cost.hours * 3600


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a calibrated plan with the run that follows.")
    parser.add_argument("--quick", action="store_true", help="one round of few samples")
    quick = parser.parse_args().quick
    num_shards, samples, rounds = (4, 16, 1) if quick else (8, 64, 3)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        write_scenes(Path(name, "in"), num_shards=num_shards, samples_per_shard=samples, seed=0)
        for number in range(rounds):
            overrides = [f"input.shards={name}/in", f"output.path={name}/out{number}", "workers.engine=local"]
            job = load(JOB, Job, overrides)
            assumed_s = planned_seconds(job)
            begun = time.perf_counter()
            calibrated_s = planned_seconds(job, "00000.tar")
            calibration_s = time.perf_counter() - begun
            begun = time.perf_counter()
            run(job)
            rows.append((calibrated_s, assumed_s, calibration_s, time.perf_counter() - begun))
            print("calibrated, assumed, calibration, run:", *(f"{value:.2f}" for value in rows[-1]), file=sys.stderr)
    for metric, column in (("planned after a calibration", 0), ("planned without", 1), ("the calibration itself", 2)):
        ours, took = (median(row[index] for row in rows) for index in (column, 3))
        figure(f"seconds, {metric} ÷ the run", ours, took, median(row[column] / row[3] for row in rows))


if __name__ == "__main__":
    main()
