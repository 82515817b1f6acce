"""Plug-ins for checks: their source goes into a file of the test's folder."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

AddPlugin = Callable[[str], str]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddPlugin:
    """Write a source as the module `checked_plugin` → the folder that it is in."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "checked_plugin", raising=False)

    def add(source: str) -> str:
        (tmp_path / "checked_plugin.py").write_text(source)
        return str(tmp_path)

    return add
