"""Watches a run: asks once a second how far the workers are, for a display, and for what the lease's record tells."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.reinforce.tally import WorkersProgress
from dr_pipeline.report.recorder import Recorder
from dr_pipeline.report.snapshot import Snapshot
from dr_pipeline.storage import Lease

_EVERY_SECONDS, _TIMES_A_LOOK = 1.0, 30.0
"""The pause between two looks; the adding up of 10,000 workers takes half a second, and may take no larger part."""


class RunObserver(Protocol):
    """Receives the events of a run, one at a time; a display is one."""

    def planned(self, plan: Plan) -> None:
        """Called once, before the models load."""
        ...

    def progressed(self, snapshot: Snapshot) -> None:
        """Called once a second, from a thread of its own."""
        ...

    def reported(self, report: ShardReport) -> None:
        """Called for each shard that has ended, done or failed."""
        ...


class Watch:
    """Tells an observer, and whoever reads the lease's record, how far a run is."""

    def __init__(self, plan: Plan, lease: Lease, observer: RunObserver | None):
        self._recorder = Recorder(plan)
        self._lease, self._observer = lease, observer
        self._lock = threading.Lock()
        self._looking: Future[None] = Future()
        if observer:
            observer.planned(plan)

    @contextmanager
    def of(self, ask: Callable[[], WorkersProgress]) -> Iterator[None]:
        """Watch workers for the block; `ask` gives what they have last said, and never waits."""
        ended = threading.Event()

        def look_on() -> None:
            took_seconds = 0.0
            while not ended.wait(max(_EVERY_SECONDS, _TIMES_A_LOOK * took_seconds)):
                began = time.perf_counter()
                self._look(ask)
                took_seconds = time.perf_counter() - began

        with ThreadPoolExecutor(1, thread_name_prefix="watch") as thread:
            self._looking = thread.submit(look_on)
            try:
                yield
            finally:
                ended.set()
        self._looking.result()
        self._look(ask)

    def reported(self, report: ShardReport) -> None:
        """Count a shard that has ended. Raises what the observer has raised."""
        with self._lock:
            if self._looking.done():
                self._looking.result()
            self._recorder.add(report)
            if self._observer:
                self._observer.reported(report)

    def _look(self, ask: Callable[[], WorkersProgress]) -> None:
        with self._lock:
            snapshot = self._recorder.take(ask())
            self._lease.note(snapshot.to_tree())
            if self._observer:
                self._observer.progressed(snapshot)
