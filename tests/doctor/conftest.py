"""What the examinations of training jobs share."""

from tests.training.conftest import make_train_job

__all__ = ["make_train_job"]
