"""The folder of shards that the tests of finding and planning look into."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with shards of two equal base names, and others beside them."""
    monkeypatch.chdir(tmp_path)
    for name in ("00/000.tar", "00/001.tar", "01/000.tar", "01/.hidden.tar", "01/notes.txt", "010.tar", "9.tar"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path
