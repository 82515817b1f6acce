"""One run at a time writes an output, whatever became of the one before."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.storage import Lease, Storage, StorageError
from dr_pipeline.storage import lease as lease_module
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEWAL_S", 0.6)
    monkeypatch.setattr(lease_module, "_SETTLING_S", 0.05)


def lease(folder: Path) -> Lease:
    return Lease(str(folder), "run.json", Storage())


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
        wait_until(lambda: record(tmp_path) != first)
        assert record(tmp_path)["renewals"] > first["renewals"]
    assert not (tmp_path / "run.json").exists()


def test_the_record_is_renewed_while_the_output_is_swept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with lease(tmp_path).held() as holder:
        first = record(tmp_path)["renewals"]
        while record(tmp_path)["renewals"] < first + 50:
            holder._woken.set()
            holder.sweep()
    assert "cannot be renewed" not in caplog.text


def test_another_run_of_this_machine_is_refused_at_once(tmp_path: Path) -> None:
    with lease(tmp_path).held() as holder:
        second = lease(tmp_path).held()
        with pytest.raises(ConfigError, match=r"is being written by another run .*choose another output\.path"):
            second.__enter__()
        holder.check()
    with lease(tmp_path).held():
        pass


def test_a_dead_process_of_this_machine_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_record(tmp_path, pid=2**22 + 1)
    monkeypatch.setattr(lease_module, "RENEWAL_S", 3600)  # who watches it hangs
    with lease(tmp_path).held():
        pass
    leave_record(tmp_path, began="12345")  # its number is now another process's
    with lease(tmp_path).held():
        assert record(tmp_path)["run"] != "other"


def test_a_process_that_nobody_has_reaped_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ended:
        leave_record(tmp_path, pid=ended.pid, began=lease_module._began(ended.pid))
        with pytest.raises(ConfigError, match=f"process {ended.pid}"), lease(tmp_path).held():
            pass
        ended.kill()
        wait_until(lambda: psutil.Process(ended.pid).status() == psutil.STATUS_ZOMBIE)
        monkeypatch.setattr(lease_module, "RENEWAL_S", 3600)
        with lease(tmp_path).held():
            assert record(tmp_path)["run"] != "other"


class Reads(Storage):
    """A storage that counts how often `run.json` is looked at, and at the second look does something."""

    def __init__(self, at_the_second: Callable[[], object]):
        super().__init__()
        self.count, self._at_the_second = 0, at_the_second

    def read(self, uri: str) -> bytes:
        self.count += 1
        if self.count == 2:
            self._at_the_second()
        return super().read(uri)


def test_a_run_elsewhere_is_watched(tmp_path: Path) -> None:
    leave_record(tmp_path, host="elsewhere")
    watched = Reads(lambda: None)
    with Lease(str(tmp_path), "run.json", watched).held():
        assert watched.count >= 3, "it is looked at again before the output is taken"
    leave_record(tmp_path, host="elsewhere")
    renewed = json.dumps({**record(tmp_path), "renewals": 99})
    watched = Reads(lambda: (tmp_path / "run.json").write_text(renewed))
    with pytest.raises(ConfigError, match="on elsewhere"), Lease(str(tmp_path), "run.json", watched).held():
        pass


def test_of_two_runs_that_find_no_record_one_creates_it(tmp_path: Path) -> None:
    class Late(Storage):
        """Sees the output as it was before the other run began."""

        def create(self, uri: str, data: bytes) -> None:
            (tmp_path / "run.json").write_text('{"run": "other"}')
            super().create(uri, data)

    with (
        pytest.raises(ConfigError, match="another run has just begun"),
        Lease(str(tmp_path), "run.json", Late()).held(),
    ):
        pass
    assert record(tmp_path) == {"run": "other"}, "it is not written over"


def test_a_storage_without_create_if_absent_is_written_as_it_can(tmp_path: Path) -> None:
    class Simple(Storage):
        def create(self, uri: str, data: bytes) -> None:
            raise StorageError(f"{uri} cannot be written: OSError: NotImplemented")

    with Lease(str(tmp_path), "run.json", Simple()).held():
        assert record(tmp_path)["renewals"] >= 1


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
        wait_until(lambda: holder._lost)
        with pytest.raises(PipelineError, match="another run writes"):
            holder.check()
    assert record(tmp_path) == {"run": "other"}


def test_a_lease_that_was_taken_since_the_last_renewal_is_left_to_its_holder(tmp_path: Path) -> None:
    with lease(tmp_path).held():
        (tmp_path / "run.json").write_text('{"run": "other"}')
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
        wait_until(lambda: record(tmp_path)["renewals"] > before)
        held.check()
    assert "cannot be renewed" in caplog.text
    assert "the disk coughs" in caplog.text
