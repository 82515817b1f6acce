"""The fixtures of training."""

from tests.training.conftest import make_train_job

__all__ = ["make_train_job"]
