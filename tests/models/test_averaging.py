"""The mean of classifiers: its largest probabilities, the same on every device, of classifiers that fit together."""

import numpy as np
import pytest
import torch

from dr_pipeline.dataset.sample import PROBS_INDICES, PROBS_VALUES
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.averaging import check_classifiers, largest_of_mean
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.protocol import TeacherSpec

CPU = torch.device("cpu")


class Constant:
    """A classifier that gives each image the same row, and the mean of its pixels as a column without meaning."""

    def __init__(self, *row: float):
        self._row = torch.tensor(row)
        self.spec = TeacherSpec(
            dim=len(row), image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), output="probabilities"
        )

    def encode_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self._row.expand(len(images_BCHW), -1)


def test_of_equal_probabilities_the_earlier_class_comes_first() -> None:
    row = torch.tensor([[0.2, 0.3, 0.2, 0.3]])
    values_BK, indices_BK = largest_of_mean([row, row], 3)
    assert indices_BK.tolist() == [[1, 3, 0]]
    np.testing.assert_allclose(values_BK, [[0.3, 0.3, 0.2]])


def test_an_ensemble_gives_the_largest_of_the_mean_in_place_of_its_classifiers() -> None:
    ensemble = Ensemble([("a", Constant(0.1, 0.9, 0.0)), ("b", Constant(0.6, 0.1, 0.3))], CPU)
    ensemble.keep_largest(2)
    columns = ensemble.embed_images(np.zeros((4, 8, 8, 3), np.uint8))
    assert columns.keys() == {PROBS_VALUES, PROBS_INDICES}
    np.testing.assert_allclose(columns[PROBS_VALUES], [[0.5, 0.35]] * 4)
    assert columns[PROBS_INDICES].dtype == np.int32
    np.testing.assert_array_equal(columns[PROBS_INDICES], [[1, 0]] * 4)


@pytest.mark.parametrize("row", [(3.0, 1.0, -2.0), (0.4, 0.4, 0.4), (-0.5, 1.0, 0.5), (float("nan"), 0.5, 0.5)])
def test_what_is_no_distribution_is_not_averaged(row: tuple[float, ...]) -> None:
    ensemble = Ensemble([("good", Constant(1.0, 0.0, 0.0)), ("logits", Constant(*row))], CPU)
    ensemble.keep_largest(2)
    with pytest.raises(ModelError, match="teacher logits: encode_images returned what is no distribution for 4 of 4"):
        ensemble.embed_images(np.zeros((4, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("dims", "top_k", "refusal"),
    [
        ({}, 1, "no teacher gives probabilities of images"),
        ({"a": 10, "b": 7}, 1, "theirs differ in classes: a 10, b 7"),
        ({"a": 10, "b": 10}, 11, "output.top_k is 11, but the classifiers have 10 classes"),
    ],
)
def test_classifiers_that_do_not_fit_together_are_refused(dims: dict[str, int], top_k: int, refusal: str) -> None:
    with pytest.raises(ConfigError, match=refusal):
        check_classifiers({name: TeacherSpec(dim=dim) for name, dim in dims.items()}, top_k)
