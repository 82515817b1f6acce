"""A GPU that is not there: tensors that say `cuda` while the CPU computes them, for tests of where tensors lie.

torch refuses operators whose tensors lie on a GPU and on the host; so does this, and values are the CPU's. It notes
where the host would wait for the GPU. What has no operator is beyond it: streams, events, graphs and kernels.
"""

import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from dr_pipeline.models import replay
from dr_pipeline.models.replay import Replayed
from dr_pipeline.networks import images

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
_ASKS = (aten._local_scalar_dense, aten.nonzero, aten.equal, aten.masked_select, aten._unique2, aten.is_nonzero)
"""Operators whose result the host needs before it goes on."""
_INDEXES = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index)


class OnGpu(torch.Tensor):
    """A tensor of the GPU; `on_host` has its values."""

    on_host: torch.Tensor

    @staticmethod
    def __new__(cls, on_host: torch.Tensor) -> "OnGpu":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, on_host.shape, on_host.stride(), on_host.storage_offset(), dtype=on_host.dtype, device=CUDA
        )
        tensor.on_host = on_host
        return tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
                args[0].on_host = args[1].on_host
            if func in (torch.Tensor.tolist, torch.Tensor.__format__, torch.Tensor.__repr__):
                return func(args[0].cpu(), *args[1:])
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} after the GPU has gone")


class PretendGpu(TorchDispatchMode):
    """While it is entered, `device="cuda"` gives tensors of class OnGpu; a mistake raises RuntimeError, as torch's."""

    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # else torch looks for a driver

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        """The operator and the line of the package by which the host waited for the GPU, each time."""
        self._pinned = weakref.WeakSet[torch.UntypedStorage]()

    def __enter__(self) -> Self:
        torch._C._ensureCUDADeviceGuardSet()
        self._lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._lifted)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_gpu = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
        packet = func.overloadpacket
        if packet is aten._has_compatible_shallow_copy_type:
            return False
        if packet is aten.is_pinned:
            return args[0].untyped_storage() in self._pinned
        if packet in (aten.pin_memory, aten._pin_memory):
            copied = args[0].clone()
            self._pinned.add(copied.untyped_storage())
            return copied
        if func._can_decompose() and packet is not aten.scaled_dot_product_attention:
            with self:
                return func.decompose(*args, **kwargs)
        asked = kwargs.get("device")
        to_gpu = bool(on_gpu) if asked is None else torch.device(asked).type == "cuda"
        if packet in (aten._to_copy, aten.copy_):
            self._note_copy(packet, args, kwargs, bool(on_gpu), to_gpu)
        else:
            self._check(func, on_gpu, [tensor for tensor in tensors if not isinstance(tensor, OnGpu) and tensor.ndim])
        made = self._on_host(func, args, kwargs, asked)
        known = {id(tensor.on_host): tensor for tensor in on_gpu}

        def placed(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            if id(value) in known:
                return known[id(value)]
            with torch.inference_mode(value.is_inference()):
                return OnGpu(value) if to_gpu else value

        if packet is aten.copy_:
            return args[0]
        return tree_map(placed, made)

    def _on_host(self, func: Any, args: Any, kwargs: Any, asked: Any) -> Any:
        def taken(value: Any) -> Any:
            return value.on_host if isinstance(value, OnGpu) else value

        args, kwargs = tree_map(taken, (args, kwargs))
        if asked is not None and torch.device(asked).type == "cuda":
            kwargs = {**kwargs, "device": torch.device("cpu")}
        if kwargs.get("pin_memory"):
            made = func(*args, **{**kwargs, "pin_memory": False})
            self._pinned.add(made.untyped_storage())
            return made
        return func(*args, **kwargs)

    def _check(self, func: Any, on_gpu: list[OnGpu], on_host: list[torch.Tensor]) -> None:
        """Raise RuntimeError where an operator has tensors of both; note where the host waits."""
        if not on_gpu:
            return
        packet = func.overloadpacket
        if packet in _INDEXES and on_host:  # torch copies indices of the host
            self._note(f"{func} by indices of the host")
        elif on_host:
            shapes = [tuple(tensor.shape) for tensor in on_gpu], [tuple(tensor.shape) for tensor in on_host]
            raise RuntimeError(f"{func}: of shapes {shapes[0]} on the GPU, of shapes {shapes[1]} on the host")
        booleans = packet in _INDEXES and any(tensor.dtype == torch.bool for tensor in on_gpu[1:])
        if packet in _ASKS or (booleans and packet in (aten.index, aten._unsafe_index)):
            self._note(str(func))

    def _note_copy(self, packet: Any, args: Any, kwargs: Any, from_gpu: bool, to_gpu: bool) -> None:
        """Note a copy between host and GPU unless it is told not to wait, to or from memory that is pinned."""
        target, source = args[:2] if packet is aten.copy_ else (None, args[0])
        if packet is aten.copy_:
            from_gpu, to_gpu = isinstance(source, OnGpu), isinstance(target, OnGpu)
        if from_gpu == to_gpu:
            return
        waits_not = kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2])
        host = target if from_gpu else source
        if waits_not and from_gpu and host is None:
            self._note("a copy to the host that is read before it has come")
        elif not waits_not:
            self._note(f"a copy to the {'GPU' if to_gpu else 'host'}")
        elif host is not None and host.untyped_storage() not in self._pinned:
            self._note("a copy of memory that is not pinned")
        elif to_gpu and host is not None and not host.is_contiguous():
            self._note("a copy of memory that is not contiguous")

    def _note(self, what: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/dr_pipeline/" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].line}" if frames else "a test"
        self.waits.append(f"{what}, in {where}")


_torch_tensor = torch.tensor


def _tensor(data: Any, **options: Any) -> torch.Tensor:
    """torch.tensor of numbers on the GPU too, each of which it waits for."""
    return _torch_tensor(tree_map(lambda one: one.item() if isinstance(one, OnGpu) else one, data), **options)


class _Event:
    """What there is to wait for has happened."""

    def __init__(self, **_: bool):
        """Takes what torch's takes."""

    def record(self) -> None:
        """Nothing."""

    def synchronize(self) -> None:
        """Nothing."""

    def elapsed_time(self, _: Any) -> float:
        """Milliseconds, none."""
        return 0.0


class _Stream:
    """All work is done at once, in the order in which it comes."""

    priority = 0

    def __init__(self, *_: Any, **__: Any):
        """Takes what torch's takes."""


@contextmanager
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendGpu]:
    """A GPU in the body, in which CUDA graphs are not captured. What lies on it cannot be used after the body."""
    monkeypatch.setattr(Replayed, "run", lambda self, name, work: work())
    monkeypatch.setattr(torch, "tensor", _tensor)
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)  # whose operators the CPU lacks
    for name, stands_for in {
        "is_available": lambda: True,
        "is_bf16_supported": lambda **_: True,
        "manual_seed_all": lambda seed: None,
        "graph_pool_handle": lambda: (0, 0),
        "current_stream": _Stream,
        "Stream": _Stream,
        "Event": _Event,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stands_for)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    images._constants.cache_clear()
    replay._capture_stream.cache_clear()
    try:
        with PretendGpu() as gpu:
            yield gpu
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        images._constants.cache_clear()
        replay._capture_stream.cache_clear()
