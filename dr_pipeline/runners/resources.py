"""What a worker gets where the job does not say, of what there is; and what could never be given, with what could."""

import math
from dataclasses import dataclass

from dr_pipeline.config.job import Workers
from dr_pipeline.errors import ConfigError
from dr_pipeline.networks.cpus import usable_cpus

SHARDS_AT_ONCE = 2
"""How many shards a runner gives a worker at once: while one has the device, the next is read and the last uploaded."""


@dataclass(frozen=True)
class Node:
    """A machine of a cluster, and what Ray may hand out of it."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Cluster:
    """The nodes that there are, and whether others come when they are asked for."""

    nodes: tuple[Node, ...]
    grows: bool

    def room(self, workers: Workers) -> int:
        """How many of these workers the nodes hold."""
        cpus, gpus = workers.num_cpus, workers.num_gpus
        return sum(int(min(node.cpus // cpus, node.gpus // gpus if gpus else math.inf)) for node in self.nodes)

    def __str__(self) -> str:
        return "; ".join(f"{node.cpus:g} CPU, {node.gpus:g} GPU" for node in self.nodes) or "none"


def local_workers(workers: Workers) -> Workers:
    """The one worker of this process: no more threads than the cores that it may use."""
    cores = usable_cpus()
    return workers.model_copy(update={"cpus": min(workers.num_cpus, cores)})


def fit_workers(workers: Workers, cluster: Cluster) -> Workers:
    """The workers with what the job leaves open: a GPU each where there are any, and an even share of a node's cores.

    Of a cluster that grows it is not known what will come: there a worker gets 1 GPU and 8 cores, as far as no node
    shows otherwise. Raises ConfigError where no node could hold a worker, and none will come that can.
    """
    has_gpus = cluster.grows or any(node.gpus >= workers.num_gpus for node in cluster.nodes)
    gpus = workers.num_gpus if has_gpus or workers.gpus is not None else 0
    able = [node for node in cluster.nodes if node.gpus >= gpus and node.cpus >= 1]
    shares = [node.cpus / max(1, node.gpus // gpus) if gpus else node.cpus for node in able]
    share = max((max(1, int(share)) for share in shares), default=workers.num_cpus)
    cpus = workers.cpus or min(workers.num_cpus, share)
    settled = workers.model_copy(update={"gpus": gpus, "cpus": cpus})
    room = cluster.room(settled)
    if not cluster.grows and room < workers.min:
        wanted = f"workers.cpus={cpus} and workers.gpus={gpus:g}"
        advice = f"workers.min={room}" if room else _advice(workers, gpus, cluster)
        raise ConfigError(
            f"{workers.min} workers with {wanted} each are needed to begin, and there is room for {room}: the nodes "
            f"have {cluster}, and none will join by itself; say {advice}, or start more nodes first"
        )
    return settled


def _advice(declared: Workers, gpus: float, cluster: Cluster) -> str:
    """The overrides by which the node that has most would hold a worker."""
    best = max(cluster.nodes, key=lambda node: (min(node.gpus, gpus), node.cpus), default=Node(0, 0))
    if best.cpus < 1:
        return "ray start --num-cpus=… on a node that is to work"
    overrides = [f"workers.gpus={best.gpus:g}"] if best.gpus < gpus else []
    overrides += [f"workers.cpus={int(best.cpus)}"] if best.cpus < (declared.cpus or 1) else []
    return " ".join(overrides)
