"""The fixtures of training."""

from tests.train.conftest import make_train_job

__all__ = ["make_train_job"]
