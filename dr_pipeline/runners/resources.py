"""CPUs and GPUs of a run's workers: what the job leaves open is set by what the machine or the cluster has."""

import math
from dataclasses import dataclass

from dr_pipeline.config.job import Workers
from dr_pipeline.errors import ConfigError
from dr_pipeline.networks.cpus import usable_cpus
from dr_pipeline.words import plural

SHARDS_AT_ONCE = 2
"""How many shards a runner gives a worker at once: while one has the device, the next is read and the last uploaded."""


@dataclass(frozen=True)
class Node:
    """What Ray may hand out of a cluster's machine."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Cluster:
    """The nodes of a cluster; where it grows, more are added when workers wait for them."""

    nodes: tuple[Node, ...]
    grows: bool

    def room(self, workers: Workers) -> int:
        """How many of these workers fit on the nodes."""
        cpus, gpus = workers.num_cpus, workers.num_gpus
        return sum(int(min(node.cpus // cpus, node.gpus // gpus if gpus else math.inf)) for node in self.nodes)

    def __str__(self) -> str:
        return "; ".join(f"{node.cpus:g} CPU, {node.gpus:g} GPU" for node in self.nodes) or "none"


def local_workers(workers: Workers) -> Workers:
    """The one worker of this process, with no more CPUs than the process may use."""
    cores = usable_cpus()
    return workers.model_copy(update={"cpus": min(workers.num_cpus, cores)})


def fit_workers(workers: Workers, cluster: Cluster) -> Workers:
    """The workers with what the job leaves open: a GPU each where there are any, and an even share of a node's cores.

    What a cluster that grows will have is not known: there a worker gets 1 GPU and 8 cores, unless the nodes that it
    has show otherwise. Raises ConfigError where a cluster that does not grow has no room for `workers.min` of them.
    """
    has_gpus = cluster.grows or any(node.gpus >= workers.num_gpus for node in cluster.nodes)
    gpus = workers.num_gpus if has_gpus or workers.gpus is not None else 0
    able = [node for node in cluster.nodes if node.gpus >= gpus and node.cpus >= 1]
    shares = [node.cpus / max(1, node.gpus // gpus) if gpus else node.cpus for node in able]
    share = max((max(1, int(share)) for share in shares), default=workers.num_cpus)
    cpus = workers.cpus or min(workers.num_cpus, share)
    fitted = workers.model_copy(update={"gpus": gpus, "cpus": cpus})
    room = cluster.room(fitted)
    if not cluster.grows and room < workers.min:
        wanted = f"workers.cpus={cpus} and workers.gpus={gpus:g}"
        advice = f"workers.min={room}" if room else _advice(workers, gpus, cluster)
        raise ConfigError(
            f"a run needs {plural(workers.min, 'worker')} with {wanted} each to begin, and there is room for "
            f"{room}: the nodes "
            f"have {cluster}, and none will join by itself; say {advice}, or start more nodes first"
        )
    return fitted


def _advice(declared: Workers, gpus: float, cluster: Cluster) -> str:
    """The overrides with which the largest node would hold a worker."""
    best = max(cluster.nodes, key=lambda node: (min(node.gpus, gpus), node.cpus), default=Node(0, 0))
    if best.cpus < 1:
        return "ray start --num-cpus=… on a node that is to work"
    overrides = [f"workers.gpus={best.gpus:g}"] if best.gpus < gpus else []
    overrides += [f"workers.cpus={int(best.cpus)}"] if best.cpus < (declared.cpus or 1) else []
    return " ".join(overrides)
