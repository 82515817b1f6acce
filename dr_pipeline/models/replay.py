"""CUDA graphs, and numbers of the device that the host reads late: for loops in which neither waits for the other."""

from collections import deque
from collections.abc import Callable, Hashable
from functools import cache
from itertools import cycle

import torch


class Replayed:
    """Runs a piece of work on buffers of fixed addresses; on a GPU from its second time on as one CUDA graph."""

    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        # Graphs run one after the other, and leave nothing in their memory: they share it.
        self._memory = torch.cuda.graph_pool_handle() if self._on_gpu else None
        # Kernels keep the priority of the stream on which they are captured.
        self._stream = _capture_stream(torch.cuda.current_stream(device).priority) if self._on_gpu else None

    def run(self, name: Hashable, work: Callable[[], None]) -> None:
        """Do the work on the current stream; `name` tells it from other work."""
        if name in self._graphs:
            self._graphs[name].replay()
            return
        work()  # really, which also compiles kernels and loads libraries: a capture may not
        if self._on_gpu:
            self._graphs[name] = self._captured(work)

    def forget(self) -> None:
        """Release the graphs: their buffers are to go."""
        self._graphs.clear()

    def _captured(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # Other threads use the GPU meanwhile.
        with torch.cuda.graph(graph, self._memory, self._stream, capture_error_mode="thread_local"):
            work()
        return graph


@cache
def _capture_stream(priority: int) -> torch.cuda.Stream:
    """One for all graphs: cuBLAS takes memory for each stream that it sees, and keeps it."""
    return torch.cuda.Stream(priority=priority)


class LateReader:
    """Reads a number of the device as it was `lag` readings ago, so that the device has work while the host waits."""

    def __init__(self, device: torch.device, lag: int):
        self._on_gpu, self._lag = device.type == "cuda", lag
        slots = [torch.empty(1, dtype=torch.int64, pin_memory=self._on_gpu) for _ in range(lag + 1)]
        self._slots_1 = cycle(slots)
        self._copies: deque[tuple[torch.Tensor, torch.cuda.Event | None]] = deque()

    def read(self, number_1: torch.Tensor, default: int) -> int:
        """The number `lag` readings before; the default where there were not so many."""
        slot_1, done = next(self._slots_1), None
        slot_1.copy_(number_1, non_blocking=True)
        if self._on_gpu:
            done = torch.cuda.Event(blocking=True)  # the thread sleeps, for others have work
            done.record()
        self._copies.append((slot_1, done))
        if len(self._copies) <= self._lag:
            return default
        slot_1, done = self._copies.popleft()
        if done is not None:
            done.synchronize()
        return int(slot_1)
