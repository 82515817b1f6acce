"""The Ray runner: actors that hold the models, and one loop that hands them shards.

Plain actors, not Ray Data: a shard is a whole unit of work, and the driver only moves two small records for each.
What actors return comes to the driver by itself, as futures: to ask for it (`ray.wait`) would take time in proportion
to all that is under way, 10 ms a question at 10,000 actors.
A dead actor, a dead node or a passed deadline means that its shards are done again by another.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.report import ShardReport, ShardTask
from dr_pipeline.errors import PipelineError
from dr_pipeline.redaction import without_secrets
from dr_pipeline.reinforce.tally import failed
from dr_pipeline.runners.cluster import connect, fit_to_cluster, nodes
from dr_pipeline.runners.resources import SHARDS_AT_ONCE, Cluster

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_COMPLAIN_AFTER_SECONDS = 30.0


@dataclass(eq=False)
class _Actor:
    handle: Any
    loading: Future | None = None
    """Its `load`, until that has returned."""
    running: dict[Future, ShardTask] = field(default_factory=dict)
    """The shards that it has in work."""
    is_alone: bool = False
    """Whether its shard is a suspect, which has no company: the next loss must be its own."""
    last_ended: float = 0.0
    """When it last became busy or ended a shard, by the monotonic clock."""


class RemoteWorker:
    """A worker on some machine. It is imported there: a driver needs neither torch nor models."""

    def __init__(self, job: Job):
        from dr_pipeline.reinforce.worker import Worker

        self._worker = Worker(job)

    def load(self) -> tuple[TeacherCard, ...]:
        """Load every model; the teachers' completed cards."""
        return self._worker.load()

    def run(self, task: ShardTask) -> ShardReport:
        """Reinforce and publish one shard."""
        return self._worker.run(task)


class RayRunner:
    """Between `workers.min` and `workers.max` actors; those still pending are the demand an autoscaler sees."""

    def __init__(self, job: Job, worker: type = RemoteWorker):
        absolute = [str(Path(folder).resolve()) for folder in job.plugin_dirs]
        dirs = tuple(dict.fromkeys([*job.plugin_dirs, *absolute]))  # relative ones hold under --working-dir
        self._job = job.model_copy(update={"plugin_dirs": dirs})
        self._worker = worker
        self._remote_worker: Any = None
        self._actors: list[_Actor] = []
        self._queue: deque[ShardTask] = deque()
        self._suspects: deque[ShardTask] = deque()  # lost with a worker: done again, each alone
        self._tries: Counter[str] = Counter()  # by shard, those that lost a worker which had nothing else in work
        self._news: SimpleQueue[Future] = SimpleQueue()
        self._senders: dict[Future, _Actor] = {}  # whose news are still to come
        self._cards: tuple[TeacherCard, ...] = ()
        self._lost_while_loading = 0
        self._idle_since = time.monotonic()
        self._is_closed = False

    def start(self) -> tuple[TeacherCard, ...]:
        """Connect, and wait until `workers.min` actors hold their models; the teachers' completed cards.

        Raises ConfigError where the cluster can never hold so many.
        """
        workers = fit_to_cluster(self._job.workers, connect())
        self._job = self._job.model_copy(update={"workers": workers})
        remote_worker: Any = ray.remote(num_cpus=workers.num_cpus, num_gpus=workers.num_gpus)(self._worker)
        self._remote_worker = remote_worker.options(max_concurrency=SHARDS_AT_ONCE)
        for _ in range(workers.min):
            self._add_actor()
        while sum(actor.loading is None for actor in self._actors) < workers.min:
            self._step()
        return self._cards

    def run(self, tasks: Sequence[ShardTask]) -> Iterator[ShardReport]:
        """Reports as shards end, in any order."""
        self._queue.extend(tasks)
        while len(self._actors) < min(self._job.workers.max, len(tasks)):
            self._add_actor()
        while self._queue or self._suspects or any(actor.running for actor in self._actors):
            self._hand_out()
            yield from self._step()
            self._release_idle()

    def close(self) -> None:
        """Let all actors go; what waits for them on another thread ends. A cluster that was there before stays."""
        self._is_closed = True
        for actor in [*self._actors]:
            self._let_go(actor)

    def _add_actor(self) -> None:
        actor = _Actor(self._remote_worker.remote(self._job))
        actor.loading = self._announced(actor, actor.handle.load.remote())
        self._actors.append(actor)

    def _announced(self, actor: _Actor, reference: Any) -> Future:
        """What the reference stands for, as a future that joins the news once it is there."""
        future = reference.future()
        self._senders[future] = actor
        future.add_done_callback(self._news.put)
        return future

    def _hand_out(self) -> None:
        """Give each loaded actor a shard, and a second while there are plenty: the last ones wait for no other."""
        loaded = [actor for actor in self._actors if actor.loading is None]
        for actor in loaded:
            if not actor.running and (self._suspects or self._queue):
                actor.last_ended, actor.is_alone = time.monotonic(), bool(self._suspects)
                self._give(actor, (self._suspects or self._queue).popleft())
        for actor in loaded:
            has_room = len(actor.running) < SHARDS_AT_ONCE and not actor.is_alone
            if has_room and len(self._queue) > len(self._actors):
                self._give(actor, self._queue.popleft())

    def _give(self, actor: _Actor, task: ShardTask) -> None:
        actor.running[self._announced(actor, actor.handle.run.remote(task))] = task

    def _step(self) -> list[ShardReport]:
        """Wait for news and take them in: an actor that has loaded, a shard that ended, an actor that is gone."""
        if self._is_closed:
            raise PipelineError("the runner was closed while its workers were waited for")
        self._complain_when_none_works()
        reports: list[ShardReport] = []
        for future in self._arrived():
            actor = self._senders.pop(future, None)
            if actor is not None:  # else it was replaced
                reports += self._receive(actor, future)
        for actor in [actor for actor in self._actors if self._is_late(actor)]:
            reports += self._replace(actor, f"passed errors.shard_deadline_s = {self._job.errors.shard_deadline_s}")
        return reports

    def _arrived(self) -> list[Future]:
        """All news that are there, at once or within the poll's time."""
        try:
            news = [self._news.get(timeout=_POLL_SECONDS)]
            news += [self._news.get_nowait() for _ in range(self._news.qsize())]
        except Empty:
            return []
        return news

    def _receive(self, actor: _Actor, future: Future) -> list[ShardReport]:
        error = future.exception()
        if isinstance(error, RayTaskError):
            if not self._cards:  # the first models to load: the job is wrong, not a node
                raise error.cause if isinstance(error.cause, PipelineError) else error
            return self._replace(actor, f"its worker failed: {error.cause}")
        if isinstance(error, RayError):
            return self._replace(actor, f"its worker died: {' '.join(str(error).split())}")
        if future is actor.loading:
            actor.loading, self._cards, self._lost_while_loading = None, future.result(), 0
            return []
        del actor.running[future]
        actor.last_ended = time.monotonic()
        return [future.result()]

    def _is_late(self, actor: _Actor) -> bool:
        return bool(actor.running) and time.monotonic() - actor.last_ended > self._job.errors.shard_deadline_s

    def _replace(self, actor: _Actor, why: str) -> list[ShardReport]:
        """Start another actor in the place of a lost one; the shards that it had in work are done again."""
        self._let_go(actor)
        if actor.loading is not None:
            self._lost_while_loading += 1
            if self._lost_while_loading > self._job.errors.attempts:
                raise PipelineError(f"workers die while they load the models; the last one: {why}")
        self._add_actor()
        alone = len(actor.running) == 1
        return [report for task in actor.running.values() for report in self._lost(task, alone, why)]

    def _lost(self, task: ShardTask, alone: bool, why: str) -> list[ShardReport]:
        """Queue a lost shard once more, or report that it is given up. In company, no shard is to blame yet."""
        self._tries[task.name] += alone
        tries = self._tries[task.name]
        if tries >= self._job.errors.attempts:
            return [failed(task, self._job, f"gave up after {tries} tries: {why}")]
        log.warning("%s: to be done again, alone: %s", task.name, without_secrets(why))
        self._suspects.append(task)
        return []

    def _release_idle(self) -> None:
        """At the tail, let actors go that have nothing left to do."""
        if not self._queue and not self._suspects:
            for actor in [actor for actor in self._actors if not actor.running]:
                self._let_go(actor)

    def _let_go(self, actor: _Actor) -> None:
        ray.kill(actor.handle)
        self._actors.remove(actor)
        for future in [*actor.running] if actor.loading is None else [actor.loading]:
            self._senders.pop(future, None)

    def _complain_when_none_works(self) -> None:
        """Say what is asked for, and what the cluster has, while that goes on for long."""
        now = time.monotonic()
        if any(actor.loading is None for actor in self._actors):
            self._idle_since = now
        elif now - self._idle_since > _COMPLAIN_AFTER_SECONDS:
            self._idle_since = now
            log.warning("%s", self._waiting_for_resources())

    def _waiting_for_resources(self) -> str:
        workers = self._job.workers
        return (
            f"no worker holds its models: {len(self._actors)} asked for, each with workers.cpus={workers.num_cpus} and "
            f"workers.gpus={workers.num_gpus:g}; the cluster's nodes have: {Cluster(nodes(), grows=True)}"
        )
