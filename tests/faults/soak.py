"""Kill runs at random moments for as long as asked, and check after each that nothing is lost, doubled or damaged.

    python -m tests.faults.soak [--minutes 10] [--seed 0]

Rounds alternate between killed drivers (a local run) and killed workers and nodes (a Ray cluster on this machine); each
round has an output of its own. Ends with one JSON line, or with the assertion that failed.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.demo_job import make_scenes
from tests.faults.kills import Bench, kill_drivers, kill_workers_and_nodes
from tests.ray_cluster import ray_cluster

_NUM_SHARDS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill runs at random moments and check what they leave.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    deadline = time.monotonic() + 60 * options.minutes
    killed: Counter[str] = Counter()
    rounds = 0
    with tempfile.TemporaryDirectory() as name, ray_cluster(0, 1, 1, 1) as cluster:
        folder = Path(name)
        bench = Bench(folder, make_scenes(folder / "scenes", _NUM_SHARDS, samples_per_shard=10), _NUM_SHARDS)
        while time.monotonic() < deadline:
            killed["driver"] += kill_drivers(bench, f"drivers-{rounds}", moments, kills=8)
            bench.check(f"drivers-{rounds}")
            killed += kill_workers_and_nodes(bench, f"nodes-{rounds}", cluster, moments, kills=6, pause_s=4.0)
            bench.check(f"nodes-{rounds}")
            rounds += 1
            print(json.dumps({"rounds": rounds, "killed": killed, "seed": options.seed}), flush=True)


if __name__ == "__main__":
    main()
