"""The memory of a process and all that descend from it, while it runs."""

import threading
import time
from pathlib import Path

_SHARE = 0.04  # of one core: what a sample takes, the pause after it makes up for


class PeakMemory:
    """Use as a context: samples the tree's proportional set size; memory that processes share counts once."""

    def __init__(self, pid: int):
        self.peak_gib = 0.0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        pause_s = 0.0
        while not self._ended.wait(pause_s):
            begun = time.thread_time()
            self.peak_gib = max(self.peak_gib, sum(map(_pss_kb, _tree(self._pid))) / 2**20)
            pause_s = max(0.1, (time.thread_time() - begun) / _SHARE)


def _tree(pid: int) -> list[int]:
    """The process and its descendants."""
    try:
        children = [
            int(child) for thread in Path(f"/proc/{pid}/task").iterdir() for child in _read(thread / "children").split()
        ]
    except OSError:
        return []
    return [pid, *(one for child in children for one in _tree(child))]


def _pss_kb(pid: int) -> int:
    lines = _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _read(path: Path) -> str:
    """A file of /proc, empty when its process is gone."""
    try:
        return path.read_text()
    except OSError:
        return ""
