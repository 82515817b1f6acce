"""What Ray would print on the driver, in short: each line once, in one form, without colours.

Ray sends to the driver what its processes print: of our workers, whose lines are shown with where they come from; of
its node managers and its autoscaler, which say the same paragraph again and again. What the autoscaler says of its
demands is left out, since the runner tells by itself what it waits for. A line of Ray's, or of another worker, that
differs from an earlier one in numbers only is counted, and told again after some minutes, with its count.
"""

import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray._private import ray_constants, ray_logging
from ray._private import worker as ray_worker

from dr_pipeline.report.terminal import print_line

log = logging.getLogger(__name__)

_SILENT_SECONDS = 300.0
_MOST_KINDS = 1000
_LONGEST = 400
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NUMBERS = re.compile(r"\b(0x)?[0-9a-fA-F]*\d[0-9a-fA-F.:_-]*\b")
_OURS = ("DEBUG ", "INFO ", "WARNING ", "ERROR ", "CRITICAL ")
"""How lines of our own log begin: they name shards, whose names are numbers, so only equal ones are repetitions."""
_OF_RAY = ("raylet", "gcs_server")
_DEMANDS = re.compile("cannot be scheduled|no available node types|insufficient resources", re.IGNORECASE)
"""What is said of actors that wait for a place."""


@dataclass
class _Said:
    """A kind of line that was printed."""

    at: float
    """By the monotonic clock."""
    source: str
    line: str
    withheld: int = 0


class RayLines:
    """Prints what Ray sends to the driver."""

    def __init__(self) -> None:
        self._said: dict[str, _Said] = {}
        self._lock = threading.Lock()  # Ray calls from two threads

    def show(self, data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        """Print a batch of lines as Ray's log monitor sends it: `lines`, `pid`, `ip`. The flag is Ray's, and unused."""
        source, lines = str(data.get("pid")), [_ESCAPES.sub("", line) for line in data["lines"]]
        if source == "autoscaler":
            for line in lines:
                _, is_event, event = line.partition(ray_constants.LOG_PREFIX_EVENT_SUMMARY)
                if is_event:
                    log.info("Ray's autoscaler: %s", event)
            return
        if source in _OF_RAY:  # a message of several lines is one
            lines = [" ".join(" ".join(lines).split())[:_LONGEST]]
            if _DEMANDS.search(lines[0]):
                log.info("Ray: %s", lines[0])
                return
        who = "Ray" if source in _OF_RAY else f"worker {source} on {data.get('ip')}"
        for line in lines:
            if line.strip():
                self._show_line(source, who, line.rstrip())

    def _show_line(self, source: str, who: str, line: str) -> None:
        kind, now = line if line.startswith(_OURS) else _NUMBERS.sub("#", line), time.monotonic()
        with self._lock:
            said = self._said.get(kind)
            is_repeated = said is not None and (said.source != source or source in _OF_RAY or said.line == line)
            if said and is_repeated and now - said.at < _SILENT_SECONDS:
                said.withheld += 1
                return
            if len(self._said) >= _MOST_KINDS:
                self._said.clear()
            self._said[kind] = _Said(now, source, line)
        again = f" [and {said.withheld} times more since]" if said and said.withheld else ""
        print_line(f"{who}: {line}{again}")


def replace_rays_own() -> None:
    """Have what Ray sends to this driver be printed here, from now on."""
    lines = RayLines()
    ray_logging.global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")
    ray_logging.global_worker_stdstream_dispatcher.add_handler("ray_print_logs", lines.show)
    ray_worker.print_to_stdstream = lines.show  # its errors are printed by this name
