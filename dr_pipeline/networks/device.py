"""Devices: which one is used, in what precision, with how many threads, and how memory is given back."""

import ctypes
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16", "float8"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE_BLOCK_BYTES = 4 << 20


def pick_device() -> torch.device:
    """The GPU that this process sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which models with float32 weights run: bfloat16 where the precision is less than float32."""
    if used_precision(device, precision) == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """The context in which models run whose weights have the precision themselves."""
    return torch.autocast(device.type, enabled=False)


def precision_context(
    device: torch.device, precision: Precision, needs_autocast: bool
) -> AbstractContextManager[object]:
    """The context in which a job's model runs, which needs autocast unless its weights have the precision."""
    return autocast(device, precision) if needs_autocast else no_autocast(device)


def arithmetic(device: torch.device, precision: Precision, compiled: bool = False) -> str:
    """The device's kind, the precision, and `compiled` where towers are, such as `cpu float32`.

    Where two agree, results differ in the last bits.
    """
    return f"{device.type} {used_precision(device, precision)}{' compiled' if compiled else ''}"


def used_precision(device: torch.device, precision: Precision) -> Literal["float32", "bfloat16", "float8"]:
    """What "auto" means on the device: bfloat16 on a GPU, float32 on the CPU; any other precision as it is."""
    if precision == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return precision


def memory_format(module: torch.nn.Module) -> torch.memory_format:
    """The memory format in which a network is trained: channels last, with which convolutions are fastest.

    On the CPU, contiguous where a 1 × 1 convolution has a stride: torch 2.14 crashes in the backward pass of
    MobileCLIP2's first one.
    """
    on_cpu = next(module.parameters()).device.type == "cpu"
    convolutions = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    crashes = on_cpu and any(part.kernel_size == (1, 1) and part.stride != (1, 1) for part in convolutions)
    return torch.contiguous_format if crashes else torch.channels_last


def set_threads(num_threads: int) -> None:
    """Set how many threads torch uses on the CPU."""
    torch.set_num_threads(num_threads)


def free_memory() -> None:
    """Release device memory that torch caches."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_host_memory() -> None:
    """Release free pages of the heap, which glibc keeps between pages in use.

    Without it a worker's memory grows with every shard.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def return_large_blocks(device: torch.device) -> None:
    """Have glibc release large blocks as soon as they are free, where models run on a GPU.

    By default it keeps blocks of up to 32 MiB in heaps, which fragment. Networks on the CPU need that: their
    activations are such blocks, and allocating them anew for each layer costs an eighth of a forward pass.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None and device.type != "cpu":
        set_option(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
        set_option(_M_TRIM_THRESHOLD, _LARGE_BLOCK_BYTES)
