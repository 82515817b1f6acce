"""Launching work on a device from several threads: whose turn it is, on which stream, and how results come back."""

import sys
import threading
import time
from contextlib import AbstractContextManager

import torch

_SWITCH_SECONDS = 5e-4
_ASK_SECONDS = 0.2


class _CpuTurn:
    """The use of the CPU, which one thread at a time has for a model: each model uses all cores."""

    def __init__(self) -> None:
        self._held_seconds = 0.0
        self._since: float | None = None
        self._lock = threading.Lock()

    @property
    def held_seconds(self) -> float:
        """How long any thread has had it, up to now."""
        since = self._since
        return self._held_seconds + (time.perf_counter() - since if since is not None else 0.0)

    def __enter__(self) -> None:
        self._lock.acquire()
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        assert self._since is not None
        self._held_seconds, self._since = self._held_seconds + time.perf_counter() - self._since, None
        self._lock.release()


_CPU_TURN = _CpuTurn()


def device_turn(device: torch.device) -> AbstractContextManager[object]:
    """A context in which one thread at a time launches work of some models: on the CPU there is one for all models, on
    a GPU each has its own, for other models' work runs beside it there.
    """
    return _CPU_TURN if device.type == "cpu" else threading.Lock()


def make_stream(device: torch.device) -> "torch.cuda.Stream | None":
    """A stream for `torch.cuda.stream`, whose work runs beside what other threads launch, and before it where both
    wait; None, which it takes too, where there is no GPU. Memory that was used on a stream stays its own: keep it.
    """
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device, priority=-1)
    stream.wait_stream(torch.cuda.default_stream(device))  # the models were loaded on that one
    return stream


class HostCopy:
    """A tensor on its way to the host, where it arrives as soon as the device has computed it."""

    def __init__(self, tensor: torch.Tensor):
        """Launch the copy, on the calling thread's stream."""
        self._on_host = tensor
        self._arrived: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._on_host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def wait(self) -> torch.Tensor:
        """The tensor in host memory, once it is there. Later work of the device is not waited for."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._on_host


def runs_kernels(device: torch.device) -> bool:
    """Whether Triton's kernels run on a device: a GPU, or what its interpreter takes for one."""
    try:
        import triton
    except ImportError:
        return False
    return device.type == "cuda" or bool(triton.knobs.runtime.interpret)


class Moment:
    """When the device has done what it was told so far, by its own clock."""

    def __init__(self, device: torch.device):
        self._seconds = time.perf_counter()
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def seconds_since(self, earlier: "Moment") -> float:
        """From an earlier moment to this one; both must be past."""
        if self._event is not None and earlier._event is not None:
            return earlier._event.elapsed_time(self._event) / 1000
        return self._seconds - earlier._seconds


def switch_threads_often(device: torch.device) -> None:
    """Let a thread that launches work on a GPU wait 0.5 ms at most for one that computes in Python, instead of 5 ms."""
    if device.type != "cpu":
        sys.setswitchinterval(_SWITCH_SECONDS)


class BusyClock:
    """How long a device has computed since this process began to ask."""

    def __init__(self, device: torch.device):
        self._device = device
        self._gpu_seconds: float | None = None
        if device.type == "cuda":
            self._gpu_seconds = 0.0
            threading.Thread(target=self._ask, daemon=True).start()

    @property
    def seconds(self) -> float | None:
        """On a GPU by its driver, which tells how much of the time any kernel ran; on the CPU the time of the models.

        None where nobody can tell.
        """
        return _CPU_TURN.held_seconds if self._device.type == "cpu" else self._gpu_seconds

    def _ask(self) -> None:
        try:
            while self._gpu_seconds is not None:
                time.sleep(_ASK_SECONDS)
                self._gpu_seconds += _ASK_SECONDS * torch.cuda.utilization(self._device) / 100
        except Exception:  # without the driver's library, or in a container without the right to ask
            self._gpu_seconds = None
