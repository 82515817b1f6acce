"""Waiting for what another thread or process does: by looking, as long as pytest lets the test run."""

import time
from collections.abc import Callable


def wait_until(happened: Callable[[], object]) -> None:
    """Return once `happened` is true."""
    while not happened():
        time.sleep(0.02)
