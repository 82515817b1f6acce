"""The one place that knows devices: which, in what precision, with how many threads."""

import ctypes
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE_BLOCK_BYTES = 4 << 20


def pick_device() -> torch.device:
    """The GPU that this process sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Context of the models' arithmetic. "auto": bfloat16 on a GPU, float32 on the CPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if _is_bfloat16(device, precision) else nullcontext()


def arithmetic(device: torch.device, precision: Precision) -> str:
    """Kind of device and precision, such as `cpu float32`: where both agree, results differ in last bits only."""
    return f"{device.type} {'bfloat16' if _is_bfloat16(device, precision) else 'float32'}"


def _is_bfloat16(device: torch.device, precision: Precision) -> bool:
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


def memory_format(module: torch.nn.Module) -> torch.memory_format:
    """How a network's images and convolution weights lie in memory while it is trained: channels side by side.

    That is what convolutions are fastest with. Not on the CPU where a 1 × 1 convolution has a stride: torch 2.14
    crashes there in the backward pass of MobileCLIP2's first one.
    """
    on_cpu = next(module.parameters()).device.type == "cpu"
    convolutions = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    crashes = on_cpu and any(part.kernel_size == (1, 1) and part.stride != (1, 1) for part in convolutions)
    return torch.contiguous_format if crashes else torch.channels_last


def set_threads(num_threads: int) -> None:
    """Limit torch's CPU threads to what this worker declared."""
    torch.set_num_threads(num_threads)


def free_memory() -> None:
    """Give back device memory that torch keeps for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_host_memory() -> None:
    """Give back pages of the heap that hold nothing: glibc keeps them between the few that hold something.

    Without it a worker grows with every shard, as pixels come and go beside what stays.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def return_large_blocks(device: torch.device) -> None:
    """Have glibc give large blocks back as soon as they are free, where models do not run on the CPU.

    It learns to keep ever larger ones, up to 32 MiB, in heaps that fragment. Networks on the CPU need that: their
    activations are such blocks, and to fetch them anew for each layer costs an eighth of a forward pass.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None and device.type != "cpu":
        set_option(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
        set_option(_M_TRIM_THRESHOLD, _LARGE_BLOCK_BYTES)
