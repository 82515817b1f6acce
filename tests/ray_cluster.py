"""A Ray cluster on this machine whose nodes come and go."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import ray
from ray.cluster_utils import Cluster


@contextmanager
def ray_cluster(*cpus: int) -> Iterator[Cluster]:
    """A cluster for the block: a head and further nodes, each with so many CPUs. This process has joined it."""
    head, *others = cpus
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False})
    for num_cpus in others:
        cluster.add_node(num_cpus=num_cpus)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def ray_workers() -> list[psutil.Process]:
    """The actors of this process's nodes that have started on our Worker; a method may follow its name."""
    children = psutil.Process().children(recursive=True)
    return [process for process in children if _name(process).startswith("ray::RemoteWorker")]


def _name(process: psutil.Process) -> str:
    """How a process calls itself; nothing where it has ended."""
    with suppress(psutil.Error):
        return (process.cmdline() or [""])[0]
    return ""
