"""CUDA graphs, and numbers of the device that the host reads late: for loops in which neither waits for the other."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable
from functools import cache
from itertools import cycle

import torch

log = logging.getLogger(__name__)

_CAPTURING = threading.Lock()
"""One capture at a time in a process: each waits for the GPU at first, which no other capture may see."""


class Replayed:
    """Runs a piece of work on buffers of fixed addresses; on a GPU from its second time on as one CUDA graph.

    Work that cannot be captured, because it asks the device or takes memory that is not there, is launched each time.
    """

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
            try:
                self._graphs[name] = self._captured(work)
            except RuntimeError as error:
                said = str(error).splitlines()[0]
                log.warning("models launch kernel by kernel, for their work cannot be captured as a graph: %s", said)
                self.forget()
                self._on_gpu = False

    def forget(self) -> None:
        """Release the graphs: their buffers are to go."""
        self._graphs.clear()

    def _captured(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # Other threads use the GPU meanwhile.
        with _CAPTURING, torch.cuda.graph(graph, self._memory, self._stream, capture_error_mode="thread_local"):
            work()
        return graph


class ReplayedBatches:
    """A function of batches of up to `batch_size` rows: on a GPU its hundreds of launches become one replay.

    A batch of more than half the size is filled up. A smaller one, of which a shard has one or two, is launched as it
    comes. Sizes alone decide which, so that a row's last bits do not depend on what ran before.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], batch_size: int, device: torch.device):
        self._function = function
        self._batch_size = batch_size
        self._replayed = Replayed(device)
        self._inputs: dict[torch.Size, torch.Tensor] = {}
        self._outputs: dict[torch.Size, torch.Tensor] = {}
        """Shape of a row → the buffers of a whole batch."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the function gives for the rows."""
        if not self._batch_size / 2 < len(inputs) <= self._batch_size:
            return self._function(inputs)
        shape = inputs.shape[1:]
        if shape not in self._inputs:
            self._inputs[shape] = inputs.new_zeros(self._batch_size, *shape)
        self._inputs[shape][: len(inputs)].copy_(inputs)
        self._replayed.run(shape, lambda: self._fill(shape))
        return self._outputs[shape][: len(inputs)].clone()  # the next replay writes to the same place

    def _fill(self, shape: torch.Size) -> None:
        made = self._function(self._inputs[shape])
        if shape not in self._outputs:
            self._outputs[shape] = torch.empty_like(made)
        self._outputs[shape].copy_(made)


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
