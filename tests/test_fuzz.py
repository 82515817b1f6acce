"""A short run of the fuzzer, always the same; and that it finds what is wrong."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dr_pipeline.errors import SampleSkipped
from tests import fuzz


def test_no_damaged_shard_makes_a_reader_fail(tmp_path: Path) -> None:
    """In a process of its own, whose memory is limited."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", "--executions", "2500", "--findings", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert report["executions"] == 2500
    assert min(report["of"].values()) > 200


def endless(_: bytes) -> None:
    while True:
        pass


def skipping(_: bytes) -> None:
    raise SampleSkipped("bad json")


@pytest.mark.parametrize(
    ("read", "found"),
    [
        (endless, "TooSlow: "),
        (lambda data: data[10**9], "IndexError: index out of range"),
        (skipping, None),
        (len, None),
    ],
)
def test_a_reader_that_fails_or_hangs_is_found(
    read: Callable[[bytes], object], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    with fuzz.alarm():
        assert fuzz.outcome(fuzz.Target([b"x"], read), b"x") == found
