"""A worker's memory does not grow with the shard."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.demo_job import REPOSITORY, make_scenes

MEASURE = """
import re, sys
from pathlib import Path
from dr_pipeline.reinforce.worker import Worker
from dr_pipeline.dataset.plan import make_plan
from tests.demo_job import demo_job

def kilobytes(field):
    return int(re.search(rf"{field}:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1))

# Batches that twenty samples fill: so many are in flight in the smaller shard too.
plan = make_plan(demo_job(sys.argv[1], sys.argv[2], "workers.caption_batch=4", "workers.text_batch=4"))
worker = Worker(plan.job)
worker.load()
models = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
report = worker.run(plan.todo[0])
assert report.status == "done", report.error
print(report.num_written, kilobytes("VmHWM") - models)
"""


def peak_above_models_kb(num_samples: int, folder: Path) -> int:
    scenes = make_scenes(folder / str(num_samples), num_shards=1, samples_per_shard=num_samples)
    command = [sys.executable, "-c", MEASURE, str(scenes), str(folder / "out" / str(num_samples))]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    written, peak = map(int, done.stdout.split())
    assert written == num_samples
    return peak


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_ten_times_the_samples_take_the_same_memory(tmp_path: Path) -> None:
    assert peak_above_models_kb(200, tmp_path) < 1.2 * peak_above_models_kb(20, tmp_path)
