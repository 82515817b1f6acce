"""One run at a time writes an output, whatever became of the one before."""

import json
import threading
import time
from pathlib import Path

import pytest

from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.shards import lease as lease_module
from dr_pipeline.shards.lease import Lease
from dr_pipeline.shards.storage import Storage


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEWAL_S", 0.6)
    monkeypatch.setattr(lease_module, "_SETTLING_S", 0.05)


def lease(folder: Path) -> Lease:
    return Lease(str(folder), Storage())


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def leave_record(folder: Path, **changes: object) -> None:
    """A record as a run leaves it that had no time to remove it."""
    with lease(folder).held():
        left = record(folder)
    (folder / "run.json").write_text(json.dumps({**left, "run": "other", **changes}))


def test_a_lease_is_shown_while_it_is_held_and_renewed(tmp_path: Path) -> None:
    with lease(tmp_path).held():
        first = record(tmp_path)
        deadline = time.monotonic() + 5
        while record(tmp_path) == first and time.monotonic() < deadline:
            time.sleep(0.05)
        assert record(tmp_path)["renewals"] > first["renewals"]
    assert not (tmp_path / "run.json").exists()


def test_another_run_of_this_machine_is_refused_at_once(tmp_path: Path) -> None:
    with lease(tmp_path).held() as holder:
        second = lease(tmp_path).held()
        with pytest.raises(ConfigError, match=r"is being written by another run .*choose another output\.path"):
            second.__enter__()
        holder.check()
    with lease(tmp_path).held():
        pass


def test_a_dead_process_of_this_machine_is_no_obstacle(tmp_path: Path) -> None:
    leave_record(tmp_path, pid=2**22 + 1)
    started = time.monotonic()
    with lease(tmp_path).held():
        assert time.monotonic() - started < 1.0, "nothing to watch"
    leave_record(tmp_path, began="12345")  # its number is now another process's
    with lease(tmp_path).held():
        assert record(tmp_path)["run"] != "other"


def test_a_run_elsewhere_is_watched(tmp_path: Path) -> None:
    leave_record(tmp_path, host="elsewhere")
    started = time.monotonic()
    with lease(tmp_path).held():
        assert time.monotonic() - started > 1.0, "it is given the time of two renewals"
    leave_record(tmp_path, host="elsewhere")
    left = record(tmp_path)
    renewing = threading.Timer(0.3, lambda: (tmp_path / "run.json").write_text(json.dumps({**left, "renewals": 99})))
    renewing.start()
    with pytest.raises(ConfigError, match="on elsewhere"), lease(tmp_path).held():
        pass
    renewing.join()


def test_what_the_killed_run_was_writing_is_swept_away(tmp_path: Path) -> None:
    leave_record(tmp_path, pid=2**22 + 1)
    half = tmp_path / "00" / f".a.tar.{'0' * 32}.tmp"
    half.parent.mkdir()
    half.write_bytes(b"half")
    mine = tmp_path / ".hidden.tmp"
    mine.write_bytes(b"of the user")
    with lease(tmp_path).held():
        assert not half.exists()
    assert mine.exists()


def test_a_run_whose_lease_was_taken_stops_and_leaves_it(tmp_path: Path) -> None:
    with lease(tmp_path).held() as holder:
        (tmp_path / "run.json").write_text('{"run": "other"}')
        deadline = time.monotonic() + 5
        while not holder._lost and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(PipelineError, match="another run writes"):
            holder.check()
    assert record(tmp_path) == {"run": "other"}


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00"])
def test_a_damaged_record_is_no_obstacle(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with lease(tmp_path).held():
        assert "run" in record(tmp_path)


def test_a_renewal_that_fails_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with lease(tmp_path).held() as held:
        write, failures = Storage.write, iter([OSError(5, "the disk coughs")])

        def fail_once(storage: Storage, uri: str, data: bytes) -> None:
            for error in failures:
                raise error
            write(storage, uri, data)

        monkeypatch.setattr(Storage, "write", fail_once)
        before = record(tmp_path)["renewals"]
        deadline = time.monotonic() + 10
        while record(tmp_path)["renewals"] == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert record(tmp_path)["renewals"] > before
        held.check()
    assert "cannot be renewed" in caplog.text
    assert "the disk coughs" in caplog.text
