"""The one place that knows devices: which, in what precision, with how many threads."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def pick_device() -> torch.device:
    """The GPU that this process sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Context of the models' arithmetic. "auto": bfloat16 on a GPU, float32 on the CPU."""
    bfloat16 = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)


def memory_format(device: torch.device) -> torch.memory_format:
    """How images and convolutions' weights lie in memory while a network is trained.

    Channels side by side is what GPUs compute fastest. Not on the CPU, though it would be faster there too: torch 2.14
    crashes in the backward pass of a 1 × 1 convolution with stride 2 of 3 channels, which MobileCLIP2 begins with.
    """
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def set_threads(num_threads: int) -> None:
    """Limit torch's CPU threads to what this worker declared."""
    torch.set_num_threads(num_threads)
