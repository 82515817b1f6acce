"""What Ray sends to the driver is printed once, in one form, and without what would hide what matters."""

import logging
from typing import Any

import pytest

from dr_pipeline.runners import ray_lines
from dr_pipeline.runners.ray_lines import RayLines

UNPLACED = (
    "Warning: The following resource request cannot be scheduled right now: {'GPU': 1.0}. This is likely due to all "
    "cluster resources being claimed by actors. Consider creating fewer actors or adding more nodes."
)


def batch(*lines: str, pid: Any = 4711, ip: str = "10.0.0.7") -> dict[str, Any]:
    """As Ray's log monitor sends it."""
    return {"lines": [*lines], "pid": pid, "ip": ip, "is_err": True, "job": "01", "localhost": "10.0.0.1"}


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda: capsys.readouterr().err.splitlines()


def test_a_worker_s_line_says_where_it_comes_from_and_has_no_colours(shown: Any) -> None:
    RayLines().show(batch("\x1b[36mWARNING 00012.tar:\x1b[0m gone\r", "", "Traceback:", "  line"))
    assert shown() == [
        "worker 4711 on 10.0.0.7: WARNING 00012.tar: gone",
        "worker 4711 on 10.0.0.7: Traceback:",
        "worker 4711 on 10.0.0.7:   line",
    ]


def test_warnings_of_ours_that_differ_in_a_shard_s_number_are_all_told(shown: Any) -> None:
    lines = RayLines()
    for pid in (1, 2):
        lines.show(batch("WARNING 00012.tar: slow", f"WARNING 0001{pid + 2}.tar: slow", pid=pid))
    assert [line.partition(": ")[2] for line in shown()] == [
        "WARNING 00012.tar: slow",
        "WARNING 00013.tar: slow",
        "WARNING 00014.tar: slow",
    ]


def test_what_many_workers_say_is_told_once_and_later_with_how_often_it_came(
    shown: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = RayLines()
    for pid in range(1000):
        lines.show(batch(f"libwarn: took {pid} ms", pid=pid))
    lines.show(batch("step 1", "step 2", pid=1))  # one worker's own lines are no repetitions
    monkeypatch.setattr(ray_lines, "_SILENT_SECONDS", 0.0)
    lines.show(batch("libwarn: took 7 ms", pid=7))
    assert shown() == [
        "worker 0 on 10.0.0.7: libwarn: took 0 ms",
        "worker 1 on 10.0.0.7: step 1",
        "worker 1 on 10.0.0.7: step 2",
        "worker 7 on 10.0.0.7: libwarn: took 7 ms [and 999 times more since]",
    ]


def test_a_paragraph_of_ray_s_is_a_line_and_its_errors_are_told(shown: Any) -> None:
    lines = RayLines()
    for percent in (95.1, 96.2):
        lines.show({"lines": [f"(raylet) /tmp is over\n{percent}% full,\n  available space: 1"], "pid": "raylet"})
    lines.show({"lines": ["A worker died or was killed"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert shown() == [
        "Ray: (raylet) /tmp is over 95.1% full, available space: 1",
        "Ray: A worker died or was killed",
    ]


def test_what_is_said_of_actors_without_a_place_is_for_those_who_want_more(
    shown: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="dr_pipeline")
    lines = RayLines()
    lines.show({"lines": [UNPLACED], "pid": "raylet"})
    lines.show(batch("INFO autoscaler.py:147 -- 1", ":event_summary:Adding 1 node(s) of type small.", pid="autoscaler"))
    assert shown() == []
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert caplog.messages[0].startswith("Ray: Warning: The following resource request cannot be scheduled")
    assert caplog.messages[1] == "Ray's autoscaler: Adding 1 node(s) of type small."
