"""What the examinations share."""

import pytest
from huggingface_hub import constants

from tests.training.conftest import make_train_job

__all__ = ["make_train_job"]


@pytest.fixture(autouse=True)
def _hub_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of models leaves the hub alone, for its process, where it is out of reach."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
