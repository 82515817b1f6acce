"""The mean of several classifiers' probabilities, of which the largest are kept (ImageNet+, Faghri et al. 2023).

Shapes: B views, M classes, K kept.
"""

from collections.abc import Mapping, Sequence

import torch

from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.protocol import TeacherSpec

_SUM_TOLERANCE = 0.01
"""How far a sum of probabilities in bfloat16 may be off 1."""


def check_classifiers(specs: Mapping[str, TeacherSpec], top_k: int) -> None:
    """Raise ConfigError unless these classifiers, by name, can be averaged and have `top_k` classes."""
    dims = {name: spec.dim for name, spec in specs.items()}
    if not dims:
        raise ConfigError("output.top_k: no teacher gives probabilities of images: remove it, or add a classifier")
    if len(set(dims.values())) > 1:
        told = ", ".join(f"{name} {dim}" for name, dim in dims.items())
        raise ConfigError(f"output.top_k: classifiers are averaged, and theirs differ in classes: {told}")
    if top_k > min(dims.values()):
        raise ConfigError(f"output.top_k is {top_k}, but the classifiers have {min(dims.values())} classes")


def largest_of_mean(probabilities_BM: Sequence[torch.Tensor], top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The K largest of the classifiers' mean [B, K], the largest first, and whose classes they are [B, K].

    Of equal ones the earlier class comes first, on every device: topk alone leaves that open.
    """
    mean_BM = sum(probabilities_BM[1:], start=probabilities_BM[0]) / len(probabilities_BM)
    values_BM, indices_BM = mean_BM.sort(dim=1, descending=True, stable=True)
    return values_BM[:, :top_k], indices_BM[:, :top_k]


def sums_of(probabilities_BM: torch.Tensor) -> torch.Tensor:
    """The sum of each row [B]; NaN where a probability is below 0."""
    return probabilities_BM.sum(dim=1).where(probabilities_BM.amin(dim=1) >= 0, torch.nan)


def check_sums(sums_B: torch.Tensor, who: str) -> None:
    """Raise ModelError, naming `who` returned them, unless all rows are probabilities that sum to 1."""
    bad = torch.nonzero(~((sums_B - 1).abs() <= _SUM_TOLERANCE)).flatten().tolist()
    if bad:
        raise ModelError(
            f"{who} returned what is no distribution for {len(bad)} of {len(sums_B)} inputs, first for input {bad[0]}, "
            f"with a sum of {float(sums_B[bad[0]]):.3g}: it cannot be averaged; apply softmax"
        )
