"""Whatever is killed, and whenever: the run that follows ends with the bytes of one that nobody disturbed."""

import random
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from tests.demo_job import make_scenes
from tests.faults.kills import Bench, cluster_of, kill_drivers, kill_workers_and_nodes

pytestmark = pytest.mark.faults

NUM_SHARDS = 24


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("faults")
    return Bench(folder, make_scenes(folder / "scenes", NUM_SHARDS, samples_per_shard=10), NUM_SHARDS)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with cluster_of(num_nodes=3) as cluster:
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
