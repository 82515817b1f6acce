"""What every section measures with: the device, its clock, and figures beside what they are compared with."""

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from dr_pipeline.networks.device import pick_device

Size = TypeVar("Size")
Message = dict[str, Any]

_ENOUGH_SECONDS = 0.8
_MOST_ROUNDS = 10


@dataclass
class Bench:
    """One section's."""

    section: str
    dry: bool
    """Everything in tiny: to see that it runs."""
    say: Callable[[Message], None]
    bare: dict[str, float]
    """What earlier sections of this run remembered; see `remember`."""
    device: torch.device = field(default_factory=pick_device)

    def size(self, full: Size, dry: Size) -> Size:
        """The one that is to be measured."""
        return dry if self.dry else full

    def figure(self, name: str, value: float, unit: str, baseline: float | None = None) -> None:
        """Say what was measured, and its bare baseline in the same unit."""
        ratio = value / baseline if baseline else None
        self.say({"figure": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio})

    def remember(self, name: str, seconds: float) -> None:
        """Keep the least that a piece of work costs the device, for later sections to add up."""
        self.bare[name] = min(seconds, self.bare.get(name, seconds))
        self.say({"bare": name, "seconds": self.bare[name]})

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """What fails within is said, and the section goes on."""
        try:
            yield
        except Exception as error:
            print(traceback.format_exc(), file=sys.stderr, flush=True)
            said = (str(error).splitlines() or [""])[0]
            self.say({"figure": name, "error": f"{type(error).__name__}: {said}"[:300]})
        self.free()

    def seconds(self, work: Callable[[], object]) -> float:
        """The median of a call's seconds, the device done with it, after two calls that are not measured."""
        took: list[float] = []
        for round_ in range(3 if self.dry else 2 + _MOST_ROUNDS):
            begun = time.perf_counter()
            work()
            self.wait()
            took += [time.perf_counter() - begun] if round_ >= 2 else []
            if len(took) >= 3 and sum(took) > _ENOUGH_SECONDS:
                break
        return median(took)

    def wait(self) -> None:
        """Until the device has done all that it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give back the device's memory that nothing holds."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def compiled(self, function: Callable[..., torch.Tensor], mode: str | None = None) -> Callable[..., torch.Tensor]:
        """The function compiled for the shapes that it sees; in a dry run it is as it was."""
        return function if self.dry else torch.compile(function, dynamic=False, mode=mode)

    def compiled_by_blocks(self, tower: nn.Module) -> nn.Module:
        """The tower, each of its equal transformer blocks compiled by itself: one compilation does for all."""
        for part in tower.modules():
            if isinstance(part, ResidualAttentionBlock) and not self.dry:
                part.compile(dynamic=False)
        return tower
