"""The Ray runner: actors that hold the models, and one loop that hands them shards.

Plain actors, not Ray Data: a shard is a whole unit of work, and the driver only moves two small records for each.
Results come to the driver as futures that call back: `ray.wait` takes time in proportion to all that is pending, 10 ms
a call at 10,000 actors. The shards of a dead actor, a dead node or a passed deadline are done again by another actor.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.reports import ShardReport, ShardTask
from dr_pipeline.errors import PipelineError
from dr_pipeline.redaction import without_secrets
from dr_pipeline.reinforce.stats import failed
from dr_pipeline.reinforce.tally import Tally, WorkerProgress, WorkersProgress
from dr_pipeline.report.log import shown_level
from dr_pipeline.runners.cluster import connect, fit_to_cluster, free, nodes
from dr_pipeline.runners.metrics import DriverMetrics
from dr_pipeline.runners.remote_worker import ASIDE, RemoteWorker
from dr_pipeline.runners.resources import SHARDS_AT_ONCE, Cluster

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_WARN_AFTER_SECONDS, _WARN_AGAIN_SECONDS = 30.0, 180.0
_LEAST_ASKED, _ASKED_WITHIN = 16, 30
"""How many actors are asked how far they are at once: with a question a second, all of them within so many."""


@dataclass(eq=False)
class _Actor:
    handle: Any
    loading: Future | None = None
    """Its call of `load`, until that has returned."""
    running: dict[Future, ShardTask] = field(default_factory=dict)
    """The shards that it has in work."""
    is_alone: bool = False
    """Whether its shard is a suspect, which runs alone so that the next loss must be its own."""
    last_ended: float = 0.0
    """When it last became busy or ended a shard, by the monotonic clock."""
    progress: WorkerProgress | None = None
    """What it last said; None until it has a place."""
    asked: Future | None = None
    """The last question how far it is. Nobody waits for its answer."""


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
        self._suspects: deque[ShardTask] = deque()  # lost with an actor: done again, each alone
        self._tries: Counter[str] = Counter()  # by shard, those that lost an actor which had nothing else in work
        self._finished: SimpleQueue[Future] = SimpleQueue()
        self._callees: dict[Future, _Actor] = {}  # whose results are still to come
        self._cards: tuple[TeacherCard, ...] = ()
        self._lost_while_loading = 0
        self._idle_since = self._waiting_since = time.monotonic()
        self._gone = Tally()
        self._counting = threading.Lock()  # an actor counts among those at hand or those gone, never in both
        self._first_asked = 0
        self._metrics: DriverMetrics | None = None
        self._is_closed = False

    def start(self) -> tuple[TeacherCard, ...]:
        """Connect, and wait until `workers.min` actors have loaded. Gives the teachers' completed cards.

        Raises ConfigError where the cluster can never hold so many.
        """
        workers = fit_to_cluster(self._job.workers, connect())
        self._job = self._job.model_copy(update={"workers": workers})
        options = {"num_cpus": workers.num_cpus, "num_gpus": workers.num_gpus, "concurrency_groups": {ASIDE: 1}}
        remote_worker: Any = ray.remote(**options)(self._worker)  # type: ignore[call-overload]
        self._remote_worker = remote_worker.options(max_concurrency=SHARDS_AT_ONCE)
        for _ in range(workers.min):
            self._add_actor()
        while sum(actor.loading is None for actor in self._actors) < workers.min:
            self._step()
        return self._cards

    def run(self, tasks: Sequence[ShardTask]) -> Iterator[ShardReport]:
        """Reports as shards end, in any order."""
        self._queue.extend(tasks)
        self._metrics = DriverMetrics(self._job.name)
        self._metrics.begin(len(tasks))
        while len(self._actors) < min(self._job.workers.max, len(tasks)):
            self._add_actor()
        while self._queue or self._suspects or any(actor.running for actor in self._actors):
            self._hand_out()
            for report in self._step():
                self._metrics.count(report)
                yield report
            if not self._queue and not self._suspects:
                for actor in [actor for actor in self._actors if not actor.running]:
                    self._let_go(actor)

    def progress(self) -> WorkersProgress:
        """How far the actors are, by what they have last said. It asks some of them, each every half minute at least.

        Another thread than that of `run` may ask: shards, deadlines and kills know nothing of it.
        """
        actors = [*self._actors]
        num_asked = min(len(actors), max(_LEAST_ASKED, len(actors) // _ASKED_WITHIN))
        turn = [actors[(self._first_asked + index) % len(actors)] for index in range(num_asked)]
        self._first_asked += num_asked
        for actor in (actor for actor in turn if actor.asked is None or actor.asked.done()):
            question = actor.handle.progress.options(concurrency_group=ASIDE).remote()
            actor.asked = question.future()
            actor.asked.add_done_callback(partial(_take_answer, actor))
        with self._counting:
            answers = tuple(actor.progress for actor in self._actors if actor.progress)
            progress = WorkersProgress(answers, len(self._actors) - len(answers), self._gone)
        if self._metrics:
            self._metrics.watch(progress)
        return progress

    def close(self) -> None:
        """Stop all actors; another thread that waits for them ends. A cluster that was there before stays."""
        self._is_closed = True
        for actor in [*self._actors]:
            self._let_go(actor)

    def _add_actor(self) -> None:
        """Start an actor, which loads its models."""
        actor = _Actor(self._remote_worker.remote(self._job, shown_level()))
        actor.loading = self._future(actor, actor.handle.load.remote())
        self._actors.append(actor)

    def _let_go(self, actor: _Actor) -> None:
        ray.kill(actor.handle)
        with self._counting:
            self._actors.remove(actor)
            if actor.progress:
                gone = Tally(self._gone)  # another thread may read the old one
                gone.add(actor.progress.counts)
                self._gone = gone
        for future in [*actor.running] if actor.loading is None else [actor.loading]:
            self._callees.pop(future, None)

    def _future(self, actor: _Actor, reference: Any) -> Future:
        """An actor's result as a future, which is put into `_finished` once it is there."""
        future = reference.future()
        self._callees[future] = actor
        future.add_done_callback(self._finished.put)
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
        actor.running[self._future(actor, actor.handle.run.remote(task))] = task

    def _step(self) -> list[ShardReport]:
        """Wait a second for results, take in those that are there, and replace actors that are gone or late."""
        if self._is_closed:
            raise PipelineError("the runner was closed while its workers were waited for")
        self._warn_while_some_wait()
        finished: list[Future] = []
        with suppress(Empty):
            finished.append(self._finished.get(timeout=_POLL_SECONDS))
            while True:
                finished.append(self._finished.get_nowait())
        reports: list[ShardReport] = []
        for future in finished:
            actor = self._callees.pop(future, None)
            if actor is not None:  # else it was replaced
                reports += self._receive(actor, future)
        deadline_s = self._job.errors.shard_deadline_s
        last_start = time.monotonic() - deadline_s
        for actor in [actor for actor in self._actors if actor.running and actor.last_ended < last_start]:
            reports += self._replace(actor, f"passed errors.shard_deadline_s = {deadline_s}")
        return reports

    def _receive(self, actor: _Actor, future: Future) -> list[ShardReport]:
        """Take in one result: models are loaded, a shard has ended, or the actor is gone."""
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

    def _replace(self, actor: _Actor, why: str) -> list[ShardReport]:
        """Start another actor in the place of a lost one. Its shards are queued once more, or reported as given up."""
        self._let_go(actor)
        if actor.loading is not None:
            self._lost_while_loading += 1
            if self._lost_while_loading > self._job.errors.attempts:
                raise PipelineError(f"workers die while they load the models; the last one: {why}")
        self._add_actor()
        reports = []
        for task in actor.running.values():
            self._tries[task.name] += len(actor.running) == 1  # of two, neither is to blame yet
            tries = self._tries[task.name]
            if tries >= self._job.errors.attempts:
                reports.append(failed(task, self._job, f"gave up after {tries} tries: {why}"))
            else:
                log.warning("%s: to be done again, alone: %s", task.name, without_secrets(why))
                self._suspects.append(task)
        return reports

    def _warn_while_some_wait(self) -> None:
        """Log what is asked for, and what the cluster has, while no actor begins for long; every few minutes how many
        have no place, while others work.
        """
        now, workers = time.monotonic(), self._job.workers
        if any(actor.loading is None or actor.progress for actor in self._actors):
            self._idle_since = now
            num_waiting = sum(actor.loading is not None and actor.progress is None for actor in self._actors)
            if not num_waiting:
                self._waiting_since = now
            elif now - self._waiting_since > _WARN_AGAIN_SECONDS:
                self._waiting_since = now
                what = "GPU" if workers.num_gpus and free("GPU") < workers.num_gpus else "CPU"
                log.warning(
                    "waiting for %s of %s workers: the cluster has no free %s", num_waiting, len(self._actors), what
                )
        elif now - self._idle_since > _WARN_AFTER_SECONDS:
            self._idle_since = now
            log.warning(
                "no worker holds its models: %s asked for, each with workers.cpus=%s and workers.gpus=%g; "
                "the cluster's nodes have: %s",
                len(self._actors),
                workers.num_cpus,
                workers.num_gpus,
                Cluster(nodes(), grows=True),
            )


def _take_answer(actor: _Actor, answer: Future) -> None:
    """Keep what an actor says; one that is gone says nothing."""
    if answer.exception() is None:
        actor.progress = answer.result()
