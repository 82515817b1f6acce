"""The teachers together: uint8 views and texts in, concatenated unit embeddings out (section 2.1 of the paper)."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dr_pipeline.errors import ModelError
from dr_pipeline.models.protocol import Teacher
from dr_pipeline.networks.device import Precision, autocast
from dr_pipeline.networks.images import host_tensor, normalise, resample


class Ensemble:
    """Named teachers in order. Each one's slice of an embedding is L2-normalised on its own."""

    def __init__(self, teachers: Sequence[tuple[str, Teacher]], device: torch.device, precision: Precision = "auto"):
        self.names = [name for name, _ in teachers]
        self.dims = [teacher.spec.dim for _, teacher in teachers]
        self._teachers = [teacher for _, teacher in teachers]
        self._device = device
        self._precision = precision

    def start_images(self, views_BHWC: torch.Tensor) -> "Started":
        """Square uint8 RGB views → their embeddings [B, sum(dims)], which a GPU may still be at work on.

        A teacher of another size than the views' gets them resampled with antialias, always from the views as given.
        Raises ModelError naming the teacher that returned anything but B vectors of its dim.
        """
        views = views_BHWC.to(self._device, non_blocking=True)
        sized = {size: resample(views, size) for size in {teacher.spec.image_size for teacher in self._teachers}}
        with torch.inference_mode(), autocast(self._device, self._precision):
            outputs = [
                teacher.encode_images(normalise(sized[teacher.spec.image_size], teacher.spec))
                for teacher in self._teachers
            ]
        return self._started(outputs, "encode_images", len(views_BHWC))

    def start_texts(self, texts: list[str]) -> "Started":
        """T texts as one batch → their embeddings [T, sum(dims)], as of `start_images`.

        Texts of about one length waste the least padding.
        """
        with torch.inference_mode(), autocast(self._device, self._precision):
            outputs = [teacher.encode_texts(texts) for teacher in self._teachers]
        return self._started(outputs, "encode_texts", len(texts))

    def embed_images(self, views_BHWC: np.ndarray) -> torch.Tensor:
        """`start_images` to its end: float32 CPU tensor [B, sum(dims)]. Raises ModelError on NaN and zeros too."""
        return self.start_images(host_tensor(views_BHWC, self._device)).finish()

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """`start_texts` to its end, like `embed_images`."""
        return self.start_texts(texts).finish()

    def _started(self, outputs: list[Any], method: str, rows: int) -> "Started":
        names = [f"teacher {name}: {method}" for name in self.names]
        for output, who, dim in zip(outputs, names, self.dims, strict=True):
            check_form(output, who, rows, dim)
        return Started(names, [output.detach().float() for output in outputs])


class Started:
    """Embeddings that the device has been told to compute. Several threads may wait for the same."""

    def __init__(self, names: list[str], slices: list[torch.Tensor]):
        self._names = names
        self._norms = [torch.linalg.vector_norm(part, dim=1) for part in slices]
        self._units: torch.Tensor | None = torch.cat([F.normalize(part, dim=1) for part in slices], dim=1)
        self._finished: torch.Tensor | None = None
        self._lock = threading.Lock()

    def finish(self) -> torch.Tensor:
        """Wait for the device → float32 CPU tensor [B, sum(dims)], each slice L2-normalised.

        Raises ModelError naming the teacher that returned a vector of zeros, NaN or infinity.
        """
        with self._lock:
            if self._finished is None:
                assert self._units is not None
                for name, norms_B in zip(self._names, self._norms, strict=True):
                    _check_norms(norms_B.cpu(), name)
                self._finished, self._units = self._units.cpu(), None  # the device's memory is needed for others
            return self._finished


def check_embeddings(output: Any, who: str, rows: int, dim: int) -> None:
    """Raise ModelError, saying what `who` returned, unless it is `rows` finite, non-zero vectors of `dim` floats."""
    check_form(output, who, rows, dim)
    _check_norms(torch.linalg.vector_norm(output.detach().float(), dim=1).cpu(), who)


def check_form(output: Any, who: str, rows: int, dim: int) -> None:
    """Raise ModelError unless the output is a tensor of `rows` × `dim` floats; their values are not looked at."""
    if not isinstance(output, torch.Tensor):
        raise ModelError(f"{who} returned a {type(output).__name__}; return one tensor [{rows}, {dim}]")
    if tuple(output.shape) != (rows, dim):
        raise ModelError(
            f"{who} returned shape {list(output.shape)} for {rows} inputs; its spec says [{rows}, {dim}]: "
            "correct spec.dim, or return one vector per input"
        )
    if not output.is_floating_point():
        raise ModelError(f"{who} returned {output.dtype}; return floats")


def _check_norms(norms_B: torch.Tensor, who: str) -> None:
    bad = torch.nonzero(~torch.isfinite(norms_B) | (norms_B == 0)).flatten().tolist()
    if bad:
        kind = "a zero vector" if norms_B[bad[0]] == 0 else "NaN or infinity"
        raise ModelError(f"{who} returned {kind} for {len(bad)} of {len(norms_B)} inputs, first for input {bad[0]}")
