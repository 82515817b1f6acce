"""The Ray cluster a run joins, or starts for itself when there is none."""

import json
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler._private.util import format_readonly_node_type
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

from dr_pipeline.config.job import Workers
from dr_pipeline.errors import ConfigError
from dr_pipeline.networks.cpus import usable_cpus
from dr_pipeline.runners.ray_lines import replace_rays_own
from dr_pipeline.runners.resources import Cluster, Node, fit_workers

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 10.0
_REPORT_SECONDS = 10.0
"""How long after the start of a cluster its first autoscaler report may take."""


def connect() -> bool:
    """Join the cluster that `RAY_ADDRESS` or `ray start` on this machine names; else start one here, for this process.

    True where the cluster was there before. Ray would wait minutes for one that is gone, so its address is tried first.
    Raises ConfigError where nothing answers at `RAY_ADDRESS`.
    """
    if ray.is_initialized():
        return True
    address = _address()
    start: dict[str, Any] = {"address": address} if address else {"address": "local", "num_cpus": usable_cpus()}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**start, include_dashboard=False, logging_level=logging.ERROR)
    except SystemExit as end:  # Ray has a handler of its own for SIGTERM
        raise KeyboardInterrupt from end
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    replace_rays_own()
    for node in ray.nodes() if address is None else ():
        log.info("metrics: http://%s:%s/metrics", node["NodeManagerAddress"], node["MetricsExportPort"])
    return address is not None


def fit_to_cluster(workers: Workers, was_there: bool) -> Workers:
    """The workers with what the connected cluster has for each. Raises ConfigError where it can never hold them.

    `was_there`: another process has started the cluster; then it may have an autoscaler, which adds nodes.
    """
    try:
        return fit_workers(workers, Cluster(nodes(), grows=False))
    except ConfigError:
        if was_there and _grows():
            return fit_workers(workers, Cluster(nodes(), grows=True))
        raise


def workers_of_a_run(workers: Workers) -> tuple[Workers, str, str]:
    """The workers that a run from here would have, where, and why it would be refused, or "". Starts no cluster.

    Raises ConfigError where nothing answers at `RAY_ADDRESS`, and where the cluster there can never hold the workers.
    """
    if _address() is None:
        here = Cluster((Node(usable_cpus(), _gpus_here()),), grows=False)
        try:
            settled = fit_workers(workers, here)
        except ConfigError as error:
            return fit_workers(workers, Cluster((), grows=True)), "in a cluster that is not there yet", str(error)
        most = settled.model_copy(update={"max": min(settled.max, here.room(settled))})
        return most, f"in a cluster of this machine alone: {here}", ""
    joined = ray.is_initialized()
    connect()
    try:
        return fit_to_cluster(workers, was_there=True), f"in the cluster at hand: {Cluster(nodes(), grows=True)}", ""
    finally:
        if not joined:
            ray.shutdown()


def nodes() -> tuple[Node, ...]:
    """CPUs and GPUs of the connected cluster's nodes."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return tuple(Node(node.get("CPU", 0), node.get("GPU", 0)) for node in alive)


def free(resource: str) -> float:
    """How much of a resource, `CPU` or `GPU`, no one in the connected cluster has."""
    return float(ray.available_resources().get(resource, 0.0))


def _grows() -> bool:
    """Whether an autoscaler adds nodes to the connected cluster: its report may come seconds after the start.

    The second version of Ray's autoscaler writes no such report; it is taken for one that does.
    """
    deadline = time.monotonic() + _REPORT_SECONDS
    while True:
        if is_autoscaler_v2():
            return True
        status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")
        if "autoscaler_report" in status:
            return is_scaled(status["autoscaler_report"])
        if time.monotonic() > deadline:
            return False
        time.sleep(_REPORT_SECONDS / 20)


def is_scaled(report: dict[str, Any]) -> bool:
    """Whether an autoscaler's report names node types of its configuration; else each node is a type of its own."""
    types = {**(report.get("active_nodes") or {}), **(report.get("idle_nodes") or {})}
    return not all(name == format_readonly_node_type(name.removeprefix("node_")) for name in types)


def _address() -> str | None:
    """The address of the cluster that a run joins; None where it starts its own. Raises ConfigError."""
    address = os.environ.get("RAY_ADDRESS") or None
    if address and not _answers(address):
        raise ConfigError(f"no Ray cluster answers at RAY_ADDRESS={address}: start it, or unset RAY_ADDRESS")
    # `ray start` notes its cluster's address here; `ray.init` prefers that cluster to starting one
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    noted = Path(folder, "ray", "ray_current_cluster")
    if address is None and noted.exists():
        if _answers(noted.read_text().strip()):
            return "auto"
        log.warning("the cluster that %s names is gone (`ray stop` clears the file); starting one for this run", noted)
    return address


def _gpus_here() -> int:
    """GPUs of this machine, as Ray would count them."""
    manager = get_accelerator_manager_for_resource("GPU")
    assert manager is not None
    visible = manager.get_current_process_visible_accelerator_ids()
    number = manager.get_current_node_num_accelerators()
    return number if visible is None else min(number, len(visible))


def _answers(address: str) -> bool:
    """Whether a server listens at `host:port` or `scheme://host:port`; words such as `auto` are left to Ray."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname is None or parts.port is None:
        return True
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=_ANSWER_SECONDS).close()
    except OSError:
        return False
    return True
