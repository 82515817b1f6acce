"""The teachers together: uint8 views and texts in, concatenated unit embeddings out (section 2.1 of the paper)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dr_pipeline.errors import ModelError
from dr_pipeline.models.protocol import Teacher
from dr_pipeline.networks.device import Precision, autocast
from dr_pipeline.networks.images import normalise, resample, to_device


class Ensemble:
    """Named teachers in order. Each one's slice of an embedding is L2-normalised on its own."""

    def __init__(self, teachers: Sequence[tuple[str, Teacher]], device: torch.device, precision: Precision = "auto"):
        self.names = [name for name, _ in teachers]
        self.dims = [teacher.spec.dim for _, teacher in teachers]
        self._teachers = [teacher for _, teacher in teachers]
        self._device = device
        self._precision = precision

    def embed_images(self, views_BHWC: np.ndarray) -> torch.Tensor:
        """Square uint8 RGB views → float32 CPU tensor [B, sum(dims)].

        A teacher of another size than the views' gets them resampled with antialias, always from the views as given.
        Raises ModelError naming the teacher that returned anything but B finite, non-zero vectors of its dim.
        """
        views = to_device(views_BHWC, self._device)
        sized = {size: resample(views, size) for size in {teacher.spec.image_size for teacher in self._teachers}}
        with torch.inference_mode(), autocast(self._device, self._precision):
            outputs = [
                teacher.encode_images(normalise(sized[teacher.spec.image_size], teacher.spec))
                for teacher in self._teachers
            ]
        return self._unit_slices(outputs, "encode_images", len(views_BHWC))

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """T texts as one batch → float32 CPU tensor [T, sum(dims)]. Texts of about one length waste the least padding.

        Raises ModelError like `embed_images`.
        """
        with torch.inference_mode(), autocast(self._device, self._precision):
            outputs = [teacher.encode_texts(texts) for teacher in self._teachers]
        return self._unit_slices(outputs, "encode_texts", len(texts))

    def _unit_slices(self, outputs: list[Any], method: str, rows: int) -> torch.Tensor:
        slices = [
            _unit(output, f"teacher {name}: {method}", rows, dim)
            for output, name, dim in zip(outputs, self.names, self.dims, strict=True)
        ]
        return torch.cat(slices, dim=1)


def check_embeddings(output: Any, who: str, rows: int, dim: int) -> None:
    """Raise ModelError, saying what `who` returned, unless it is `rows` finite, non-zero vectors of `dim` floats."""
    if not isinstance(output, torch.Tensor):
        raise ModelError(f"{who} returned a {type(output).__name__}; return one tensor [{rows}, {dim}]")
    if tuple(output.shape) != (rows, dim):
        raise ModelError(
            f"{who} returned shape {list(output.shape)} for {rows} inputs; its spec says [{rows}, {dim}]: "
            "correct spec.dim, or return one vector per input"
        )
    if not output.is_floating_point():
        raise ModelError(f"{who} returned {output.dtype}; return floats")
    norms = torch.linalg.vector_norm(output.detach().float(), dim=1).cpu()
    bad = torch.nonzero(~torch.isfinite(norms) | (norms == 0)).flatten().tolist()
    if bad:
        kind = "a zero vector" if norms[bad[0]] == 0 else "NaN or infinity"
        raise ModelError(f"{who} returned {kind} for {len(bad)} of {rows} inputs, first for input {bad[0]}")


def _unit(output: Any, who: str, rows: int, dim: int) -> torch.Tensor:
    """A teacher's output, checked, as unit float32 rows on the CPU."""
    check_embeddings(output, who, rows, dim)
    return F.normalize(output.detach().cpu().float(), dim=1)
