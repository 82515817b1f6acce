"""The workers: whether a run from here finds a Ray cluster, or makes one, that can hold them."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from dr_pipeline.config.job import Job, Workers
from dr_pipeline.doctor.examination import Diagnosis
from dr_pipeline.runners.resources import local_workers
from dr_pipeline.words import plural

_TOKEN_FILE = Path("~/.ray/auth_token")


def workers(job: Job | None) -> Iterator[Diagnosis]:
    """The workers that a run would have, and where. A cluster that is there is joined for a moment."""
    declared = Workers() if job is None else job.workers
    if declared.engine == "local":
        yield Diagnosis(
            "ok", f"one of {plural(local_workers(declared).num_cpus, 'thread')}, without Ray (workers.engine=local)"
        )
        return
    from dr_pipeline.runners.cluster import workers_of_a_run

    try:
        settled, where, refusal = workers_of_a_run(declared)
    except (ConnectionError, RuntimeError) as error:  # as Ray says that it is not let in, or finds other versions
        advice = "give this process the cluster's token, and the versions of Ray and Python that the cluster has"
        yield Diagnosis("fails", f"Ray {version('ray')}: {error}", advice)
        return
    each = f"each has workers.cpus={settled.num_cpus} and workers.gpus={settled.num_gpus:g}"
    if refusal:
        yield Diagnosis("fails", f"Ray {version('ray')}: {refusal}")
    else:
        yield Diagnosis("ok", f"Ray {version('ray')}, {where}; {each}")


def token(job: Job | None) -> Iterator[Diagnosis]:
    """Whether Ray is to ask for a token, and where this process has one from."""
    places = {
        "RAY_AUTH_TOKEN": bool(os.environ.get("RAY_AUTH_TOKEN")),
        "RAY_AUTH_TOKEN_PATH": Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or os.devnull).is_file(),
        str(_TOKEN_FILE): Path(os.path.expanduser(_TOKEN_FILE)).is_file(),
    }
    source = next((place for place, is_there in places.items() if is_there), None)
    asks, is_joining = os.environ.get("RAY_AUTH_MODE") == "token", bool(os.environ.get("RAY_ADDRESS"))
    if source:
        yield Diagnosis("ok", f"from {source}")
    elif asks and is_joining:
        advice = f"copy the cluster's to {_TOKEN_FILE}, or set RAY_AUTH_TOKEN (docs/ray.md)"
        yield Diagnosis("fails", "RAY_AUTH_MODE is token, and there is none", advice)
    elif is_joining:
        advice = "start the cluster with RAY_AUTH_MODE=token (docs/ray.md)"
        yield Diagnosis("warning", "none: whoever reaches the cluster's ports may run code on it", advice)
    else:
        yield Diagnosis("ok", "none, and no RAY_ADDRESS: a run starts a Ray of its own here")
