"""The Ray runner: actors that hold the models, and one loop that hands them shards.

Plain actors, not Ray Data: a shard is a whole unit of work, and the driver only moves two small records for each.
A dead actor, a dead node or a passed deadline means that its shards are done again by another.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from dr_pipeline.config import Job, TeacherCard
from dr_pipeline.errors import PipelineError
from dr_pipeline.records import ShardReport, ShardTask
from dr_pipeline.reinforce.worker import Worker, failed
from dr_pipeline.runners.cluster import connect

log = logging.getLogger(__name__)

_TASKS_AHEAD = 2  # one in work, one waiting: the actor never idles while the driver is busy elsewhere
_POLL_SECONDS = 1.0
_COMPLAIN_AFTER_SECONDS = 30.0


@dataclass(frozen=True)
class _Attempt:
    task: ShardTask
    number: int


@dataclass
class _Actor:
    handle: Any
    loading: Any
    """The reference of its `load`, until that has returned."""
    running: dict[Any, _Attempt] = field(default_factory=dict)
    """Reference → shard, in the order in which the actor does them."""
    head_since: float = 0.0
    """When its first shard began, by the monotonic clock."""


class RayPool:
    """Between `workers.min` and `workers.max` actors; those still pending are the demand an autoscaler sees."""

    def __init__(self, job: Job):
        absolute = [str(Path(folder).resolve()) for folder in job.plugin_dirs]
        dirs = tuple(dict.fromkeys([*job.plugin_dirs, *absolute]))  # relative ones hold under --working-dir
        self._job = job.model_copy(update={"plugin_dirs": dirs})
        self._remote_worker: Any = ray.remote(num_cpus=job.workers.cpus, num_gpus=job.workers.gpus)(Worker)
        self._actors: list[_Actor] = []
        self._queue: deque[_Attempt] = deque()
        self._cards: tuple[TeacherCard, ...] = ()
        self._lost_while_loading = 0

    def start(self) -> tuple[TeacherCard, ...]:
        """Connect, and wait until `workers.min` actors hold their models; the teachers' completed cards."""
        connect()
        workers = self._job.workers
        for _ in range(workers.min):
            self._add_actor()
        started = time.monotonic()
        while sum(actor.loading is None for actor in self._actors) < workers.min:
            self._step()
            if not self._cards and time.monotonic() - started > _COMPLAIN_AFTER_SECONDS:
                started = time.monotonic()
                log.warning("%s", self._waiting_for_resources())
        return self._cards

    def run(self, tasks: Sequence[ShardTask]) -> Iterator[ShardReport]:
        """Reports as shards end, in any order."""
        self._queue.extend(_Attempt(task, 1) for task in tasks)
        while len(self._actors) < min(self._job.workers.max, len(tasks)):
            self._add_actor()
        while self._queue or any(actor.running for actor in self._actors):
            self._hand_out()
            yield from self._step()
            self._release_idle()

    def close(self) -> None:
        """Let all actors go. A cluster that was there before stays."""
        for actor in self._actors:
            ray.kill(actor.handle)
        self._actors.clear()

    def _add_actor(self) -> None:
        handle = self._remote_worker.remote(self._job)
        self._actors.append(_Actor(handle, loading=handle.load.remote()))

    def _hand_out(self) -> None:
        """Give each loaded actor its next shards, those with none in work first."""
        for depth in range(1, _TASKS_AHEAD + 1):
            for actor in self._actors:
                if self._queue and actor.loading is None and len(actor.running) < depth:
                    attempt = self._queue.popleft()
                    if not actor.running:
                        actor.head_since = time.monotonic()
                    actor.running[actor.handle.run.remote(attempt.task)] = attempt

    def _step(self) -> list[ShardReport]:
        """Wait for news and take it in: an actor that has loaded, a shard that ended, an actor that is gone."""
        waiting = {actor.loading: actor for actor in self._actors if actor.loading is not None}
        waiting |= {reference: actor for actor in self._actors for reference in actor.running}
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_SECONDS)
        reports: list[ShardReport] = []
        for reference in ready:
            reports += self._receive(waiting[reference], reference)
        for actor in [actor for actor in self._actors if self._is_late(actor)]:
            reports += self._replace(actor, f"passed errors.shard_deadline_s = {self._job.errors.shard_deadline_s}")
        return reports

    def _receive(self, actor: _Actor, reference: Any) -> list[ShardReport]:
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            if not self._cards:  # the first models to load: the job is wrong, not a node
                raise error.cause if isinstance(error.cause, PipelineError) else error from None
            return self._replace(actor, f"its worker failed: {error.cause}")
        except RayError as error:
            return self._replace(actor, f"its worker died: {str(error).splitlines()[0]}")
        if reference == actor.loading:
            actor.loading, self._cards, self._lost_while_loading = None, result, 0
            return []
        del actor.running[reference]
        actor.head_since = time.monotonic()
        return [result]

    def _is_late(self, actor: _Actor) -> bool:
        return bool(actor.running) and time.monotonic() - actor.head_since > self._job.errors.shard_deadline_s

    def _replace(self, actor: _Actor, why: str) -> list[ShardReport]:
        """Queue a lost actor's shards again and start another; its first shard, the suspect, has a try less."""
        ray.kill(actor.handle)
        self._actors.remove(actor)
        if actor.loading is not None:
            self._lost_while_loading += 1
            if self._lost_while_loading > self._job.errors.attempts:
                raise PipelineError(f"workers die while they load the models; the last one: {why}")
        reports = []
        for position, attempt in enumerate(actor.running.values()):
            if position > 0:
                self._queue.appendleft(attempt)
            elif attempt.number < self._job.errors.attempts:
                log.warning("%s: try %d: %s", attempt.task.name, attempt.number, why)
                self._queue.append(_Attempt(attempt.task, attempt.number + 1))
            else:
                reports.append(failed(attempt.task, self._job, f"gave up after {attempt.number} tries: {why}"))
        self._add_actor()
        return reports

    def _release_idle(self) -> None:
        """At the tail, let actors go that have nothing left to do."""
        if not self._queue:
            for actor in [actor for actor in self._actors if not actor.running]:
                ray.kill(actor.handle)
                self._actors.remove(actor)

    def _waiting_for_resources(self) -> str:
        workers = self._job.workers
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        have = "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes)
        return (
            f"no worker has loaded yet: {workers.min} wanted, each with workers.cpus={workers.cpus} and "
            f"workers.gpus={workers.gpus:g}; the cluster's nodes have: {have}"
        )
