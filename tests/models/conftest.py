"""What tests of models share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module")
def inference() -> Iterator[None]:
    """One thread, and no gradients."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
