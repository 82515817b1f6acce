"""Timing for the benchmarks: two things in turn, and one JSON line a figure."""

import json
import time
from collections.abc import Callable
from statistics import median


def wall_seconds(work: Callable[[], object]) -> float:
    """The seconds that one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def cpu_seconds(work: Callable[[], object]) -> float:
    """The CPU seconds of all this process's threads during one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def paired(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> tuple[float, float, float]:
    """Measure two things in turn, `rounds` times after one unmeasured: the medians of both and of their ratio."""
    ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return median(a for a, _ in pairs), median(b for _, b in pairs), median(a / b for a, b in pairs)


def figure(metric: str, value: float, baseline: float | None = None, ratio: float | None = None) -> None:
    """Print one figure: what was measured, what it is compared with in the same run, and the ratio of the two."""
    print(json.dumps({"metric": metric, "value": value, "baseline": baseline, "ratio": ratio}), flush=True)
