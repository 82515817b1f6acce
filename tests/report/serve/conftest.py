"""What a second suffices for follows from load: in these tests' process a request takes its time."""

import pytest

from dr_pipeline.report.serve import extremes, walk


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (extremes, walk):
        monkeypatch.setattr(module, "_SECONDS", 600.0)
