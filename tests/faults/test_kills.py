"""Whatever is killed, and whenever: the run that follows ends with the bytes of one that nobody disturbed."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from dr_pipeline.cli.exit import INTERRUPTED
from tests.demo_job import make_scenes
from tests.faults.kills import Bench, kill_drivers, kill_workers_and_nodes
from tests.ray_cluster import ray_cluster
from tests.waiting import wait_until

pytestmark = pytest.mark.faults

NUM_SHARDS = 24


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("faults")
    return Bench(folder, make_scenes(folder / "scenes", NUM_SHARDS, samples_per_shard=10), NUM_SHARDS)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster(0, 1, 1, 1) as cluster:
        yield cluster


def test_a_driver_may_be_killed_at_any_moment(bench: Bench) -> None:
    hits = kill_drivers(bench, "drivers", random.Random(0), kills=5)
    bench.check("drivers")
    assert hits >= 3


@pytest.mark.ray
def test_workers_and_nodes_may_be_killed_at_any_moment(bench: Bench, cluster: Cluster) -> None:
    killed = kill_workers_and_nodes(bench, "nodes", cluster, random.Random(0), kills=4, pause_s=3.0)
    bench.check("nodes")
    assert sum(killed.values()) >= 2


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.ray)])
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_does_so_before_its_shards_are_done(
    bench: Bench, engine: str, stop: signal.Signals
) -> None:
    name = f"{stop.name}-{engine}"
    command = bench.command(name, f"workers.engine={engine}", "workers.max=1", "workers.cpus=1")
    alone = {**os.environ, "RAY_ADDRESS": "local"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=alone)
    wait_until(lambda: list((bench.folder / name).rglob("reports/*/*.json")) or process.poll() is not None)
    assert process.poll() is None
    if stop == signal.SIGINT:
        os.killpg(process.pid, stop)  # as a terminal does: everything that it started is told as well
    else:
        process.send_signal(stop)
    _, said = process.communicate()
    assert process.returncode == INTERRUPTED
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert not (bench.folder / name / "run.json").exists()
    assert len(list((bench.folder / name).rglob("reports/*/*.json"))) < NUM_SHARDS
    bench.finish(name)
    bench.check(name)


@pytest.mark.ray
@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.5])
def test_a_run_that_is_told_to_stop_while_its_cluster_starts_says_so(bench: Bench, seconds: float) -> None:
    name = f"starting-{seconds}"
    command = bench.command(name, "workers.engine=ray", "workers.max=1", "workers.cpus=1")
    alone = {**os.environ, "RAY_ADDRESS": "local"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=alone)
    assert process.stderr is not None
    while "loading models" not in (line := process.stderr.readline()):
        assert line, "the run has ended"
    time.sleep(seconds)  # into the imports of Ray, which swallow what is raised in them, or its start
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == INTERRUPTED
    assert "run the same command again" in said
    assert not (bench.folder / name / "run.json").exists()
