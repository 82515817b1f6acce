"""Joining a cluster: one that is gone is not waited for."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from dr_pipeline.errors import ConfigError
from dr_pipeline.runners.cluster import connect, is_scaled
from tests.ports import free_port

pytestmark = pytest.mark.ray


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for Ray's files; pytest's own names are too long for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield folder
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_cluster_that_is_gone_is_replaced_by_one_of_our_own(
    ray_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (ray_folder / "ray").mkdir()
    (ray_folder / "ray/ray_current_cluster").write_text(f"127.0.0.1:{free_port()}")
    with caplog.at_level(logging.WARNING, logger="dr_pipeline"):
        connect()
    assert ray.is_initialized()
    assert "ray_current_cluster names is gone" in caplog.text


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_at_which_nothing_answers_is_refused(
    scheme: str, ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{free_port()}")
    with pytest.raises(ConfigError, match="no Ray cluster answers at RAY_ADDRESS"):
        connect()


@pytest.mark.parametrize(
    ("report", "scaled"),
    [
        ({"active_nodes": {"node_99f6": 1}, "idle_nodes": None}, False),
        ({"active_nodes": {"node_99f6": 1, "node_aa": 1}}, False),
        ({"active_nodes": {"ray.head.default": 1}, "idle_nodes": {}}, True),
        ({"active_nodes": {"headgroup": 1}, "idle_nodes": {"gpu-group": 2}}, True),
    ],
)
def test_an_autoscalers_report_tells_whether_it_adds_nodes(report: dict, scaled: bool) -> None:
    assert is_scaled(report) is scaled
