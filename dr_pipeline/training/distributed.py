"""The ranks of one training run: who this process is, and what it exchanges with the others.

A process that torchrun did not start is the only rank: nothing is exchanged, and torch.distributed is not needed.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from dr_pipeline.errors import ConfigError
from dr_pipeline.words import plural

_TIMEOUT = timedelta(hours=2)
"""How long ranks wait for each other: while the leading one evaluates, the others already stand in their next step."""


@dataclass(frozen=True)
class Rank:
    """One process of a run. `local` counts within its machine; every method must be called by all ranks at once."""

    index: int = 0
    world_size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this rank writes the files and speaks to the user."""
        return self.index == 0

    def gather(self, rows_BD: torch.Tensor) -> torch.Tensor:
        """Every rank's rows in rank order, [world_size × B, D], with gradients to the rank they came from.

        B, D and the dtype are the same on all ranks. The gradient of a row is the sum of all ranks' gradients.
        """
        return rows_BD if self.world_size == 1 else _Gather.apply(rows_BD, self)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over ranks, element by element, as a new tensor without gradient."""
        values = values.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def collect(self, value: Any) -> list[Any]:
        """Every rank's value, plain JSON, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.long) for _ in range(self.world_size)]
        dist.all_gather(lengths, torch.tensor([len(data)]))
        padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
        padded[: len(data)] = data
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return [json.loads(part[: int(length)].numpy().tobytes()) for part, length in zip(parts, lengths, strict=True)]


@contextmanager
def joined_ranks() -> Iterator[Rank]:
    """This process's place among those that torchrun started, for as long as the outermost context lasts.

    Tensors on GPUs travel by NCCL, those on the CPU by gloo; the rank's GPU becomes the current one. Raises ConfigError
    when the machine has fewer GPUs than ranks.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Rank()
        return
    rank = Rank(int(os.environ["RANK"]), world_size, int(os.environ["LOCAL_RANK"]))
    if dist.is_initialized():  # torch cannot join the same ranks twice, one time after the other
        yield rank
        return
    if torch.cuda.is_available():
        num_gpus = torch.cuda.device_count()
        if rank.local >= num_gpus:
            raise ConfigError(
                f"rank {rank.index} is number {rank.local} on a machine with {plural(num_gpus, 'GPU')}: "
                f"torchrun --nproc-per-node {num_gpus}, or CUDA_VISIBLE_DEVICES= to train on the CPU"
            )
        torch.cuda.set_device(rank.local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_TIMEOUT)
    try:
        yield rank
    finally:
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """all_gather forward, the sum over ranks of the own rows' gradients backward.

    torch.distributed.nn.functional.all_gather does the same and is deprecated; its successors are private or differ
    between torch's versions.
    """

    @staticmethod
    def forward(ctx: Any, rows_BD: torch.Tensor, rank: Rank) -> torch.Tensor:
        ctx.own = slice(rank.index * len(rows_BD), (rank.index + 1) * len(rows_BD))
        parts = [torch.empty_like(rows_BD, memory_format=torch.contiguous_format) for _ in range(rank.world_size)]
        dist.all_gather(parts, rows_BD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient_GD = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient_GD)
        return gradient_GD[ctx.own], None
