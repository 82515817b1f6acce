"""All checks, one after the other, in a process of their own: one that hangs or crashes is a diagnosis, too.

A diagnosis tells a fact, whether the work can be done with it, and what to do where it cannot.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Literal, TypeAlias

from dr_pipeline.config import plugins
from dr_pipeline.config.evaluation import EvaluateJob
from dr_pipeline.config.extras import how_to_install
from dr_pipeline.config.job import Job
from dr_pipeline.config.training import TrainJob, TuneJob
from dr_pipeline.errors import PipelineError
from dr_pipeline.redaction import without_secrets

AnyJob: TypeAlias = Job | TrainJob | EvaluateJob | TuneJob

_ROOM = __name__.rpartition(".")[0]

MACHINE_CHECKS = {
    "Python": "packages.python",
    "packages": "packages.packages",
    "extras": "packages.extras",
    "native parts": "packages.native_parts",
    "CPUs": "machine.cpus",
    "memory": "machine.memory",
    "/dev/shm": "machine.shared_memory",
    "disk": "machine.disks",
    "open files": "machine.open_files",
    "GPUs": "gpu.gpus",
    "compiler": "gpu.compiler",
    "Ray's token": "cluster.token",
    "workers": "cluster.workers",
}
"""Each check's module and function by what it looks at, in the order in which they are told.

By name, for a module is imported where its check runs: it may need the very package that is missing.
"""
JOB_CHECKS = {
    "credentials": "places.credentials",
    "input": "places.job_input",
    "output": "places.job_output",
    "views": "places.views",
    "models": "models.models",
    "endpoints": "models.endpoints",
}
"""Those that only a job of `run` has need of."""
ON_RAY = ("Ray's token", "workers")
"""Those of the machine that no other job has need of."""
_FOLDER = {"output": "student.folder"}
_STUDENT_CHECKS = {"credentials": "student.credentials", "evaluation": "student.evaluation", "models": "student.model"}
CHECKS_BY_KIND: dict[type, dict[str, str]] = {
    Job: JOB_CHECKS,
    TrainJob: {**_STUDENT_CHECKS, "data": "student.data", **_FOLDER},
    EvaluateJob: _STUDENT_CHECKS,
    TuneJob: {**_STUDENT_CHECKS, "data": "student.data", "tuning": "student.tuning", **_FOLDER},
}
"""Those of each kind of job."""

TIME_LIMIT_SECONDS = 60.0
"""Of one check."""
_SILENT = {
    "workers": "where RAY_ADDRESS is set, see whether a Ray cluster listens there, and can be reached from here",
    **dict.fromkeys(
        ("input", "output", "data", "evaluation"), "see whether the storage's endpoint can be reached from here"
    ),
}
"""What to do where a check has no answer."""


State = Literal["ok", "warning", "fails"]
"""Of what fails a run has need; with a warning it goes on, slower or with less."""


@dataclass(frozen=True)
class Diagnosis:
    """One thing that a check has found."""

    state: State
    fact: str
    advice: str = ""
    """What to do; what is ok needs none."""
    lacks: str = ""
    """What therefore does not work on this machine, and what happens instead."""


Check = Callable[..., Iterator[Diagnosis]]
"""Looks at one thing, for a job: one of the machine may be given none. What it raises is a diagnosis too: it fails."""


def examine(job: AnyJob | None, time_limit_seconds: float = TIME_LIMIT_SECONDS) -> Iterator[tuple[str, Diagnosis]]:
    """What each check finds, for a job or for none, by what it looks at."""
    pool = _pool()
    for subject in checks_for(job):
        try:
            found = pool.submit(run_check, subject, job).result(timeout=time_limit_seconds)
        except TimeoutError:
            found = [Diagnosis("fails", f"no answer within {time_limit_seconds:g} s", _SILENT.get(subject, ""))]
            pool = _replace(pool)
        except BrokenProcessPool:
            found = [Diagnosis("fails", "its libraries ended the process that looked")]
            pool = _replace(pool)
        yield from ((subject, diagnosis) for diagnosis in found)
    pool.shutdown()


def checks_for(job: AnyJob | None) -> dict[str, str]:
    """The checks for a job, or for none."""
    left_out = () if job is None or isinstance(job, Job) else ON_RAY
    machine = {subject: check for subject, check in MACHINE_CHECKS.items() if subject not in left_out}
    return machine | CHECKS_BY_KIND.get(type(job), {})


def run_check(subject: str, job: AnyJob | None) -> list[Diagnosis]:
    """What one check finds. What it raises is the last finding."""
    found: list[Diagnosis] = []
    try:
        module, function = checks_for(job)[subject].split(".")
        check: Check = getattr(import_module(f"{_ROOM}.{module}"), function)
        found.extend(check(job))
    except PipelineError as error:
        found.append(Diagnosis("fails", str(error)))
    except ImportError as error:
        found.append(Diagnosis("fails", f"needs {how_to_install(error.name or str(error))}", "see packages"))
    except Exception as error:  # of any library: a broken one is what is looked for
        found.append(Diagnosis("fails", f"{type(error).__name__}: {error}"))
    return [replace(one, fact=without_secrets(one.fact), advice=without_secrets(one.advice)) for one in found]


def _pool() -> ProcessPoolExecutor:
    """One process, which says nothing by itself: libraries print on both streams."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (plugins.are_refused(),))


def _begin(refuses_plugins: bool) -> None:
    if refuses_plugins:
        plugins.refused().__enter__()  # for as long as the process lives
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())


def _replace(pool: ProcessPoolExecutor) -> ProcessPoolExecutor:
    """A new pool, in the place of one whose process is gone, or waits for what does not come."""
    for process in (pool._processes or {}).values():
        process.kill()
    pool.shutdown()
    return _pool()
