"""A process ends with its command's code, whatever threads are alive."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until

REPOSITORY = Path(__file__).parents[1]

COMMAND = """
import atexit, io, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from dr_pipeline.cli.exit import end_with

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a shell ignores it

class Late:  # an interpreter that is taken apart, as after sys.exit, needs a second for it
    def __del__(self, sleep=time.sleep):
        sleep(1)

sys.late = Late()

def command():
{body}

end_with(command)
"""

THREAD_OF_ARROW = """
    import pyarrow as pa, pyarrow.parquet as pq
    begun = threading.Event()

    class Slow(io.BytesIO):
        def read(self, *size):
            if threading.current_thread() is not reader:
                begun.set()
                time.sleep(0.2)
            return super().read(*size)

    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), buffer)
    stream = Slow(buffer.getvalue().to_pybytes())
    read = lambda: list(pq.ParquetFile(stream, pre_buffer=True).iter_batches(use_threads=False))
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    begun.wait()
    return 3
"""

BUSY_EXECUTOR = """
    begun = threading.Event()
    def work():
        begun.set()
        time.sleep(3600)
    ThreadPoolExecutor(1).submit(work)
    begun.wait()
    return 3
"""

INTERRUPTED_IN_A_FINALIZER = """
    import os
    class Interrupted:
        def __del__(self):
            os.kill(os.getpid(), signal.{signal})
            time.sleep(1)
    Interrupted()
    time.sleep(3600)
"""

STARTING_PROCESS = """
    import multiprocessing, tempfile
    from multiprocessing.util import Finalize
    from pathlib import Path
    from tests.test_exit import Slow
    folder = Path(tempfile.mkdtemp())
    def after_the_semaphores():
        (folder / "go").touch()
        child.join()
    Finalize(None, after_the_semaphores, exitpriority=0)
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=print, args=(Slow(folder), context.Lock()), daemon=True)
    child.start()
    Slow.wait_for(folder / "arrived")
    return 3
"""


class Slow:
    """Arrives in a process that starts, says so, and lets it go on when it is told."""

    wait_for = staticmethod(lambda path: wait_until(path.exists))

    def __init__(self, folder: Path):
        self.folder = folder

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        (self.folder / "arrived").touch()
        self.wait_for(self.folder / "go")


def ended(body: str) -> subprocess.CompletedProcess[str]:
    """What becomes of a process with this command."""
    script = COMMAND.format(body=body)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=False)


@pytest.mark.parametrize(
    "body",
    [THREAD_OF_ARROW, BUSY_EXECUTOR, STARTING_PROCESS],
    ids=["a thread of C++", "a busy executor", "a process that starts"],
)
def test_what_is_alive_neither_aborts_nor_holds_it_nor_speaks(body: str) -> None:
    done = ended(body)
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize(
    ("last", "code", "said"),
    [
        ("return 0", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(2)", 2, ""),
        ("sys.exit('bad')", 1, "bad\n"),
        ("raise ValueError('worse')", 1, "ValueError: worse\n"),
        ("raise KeyboardInterrupt", 130, "stopped\n"),
    ],
)
def test_it_ends_as_python_does(last: str, code: int, said: str) -> None:
    done = ended(f"    atexit.register(print, 'registered')\n    print('printed')\n    {last}")
    assert (done.returncode, done.stdout) == (code, "printed\nregistered\n")
    assert done.stderr.endswith(said)
    assert bool(done.stderr) == bool(said)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_where_nothing_can_be_raised_is_not_lost(name: str) -> None:
    done = ended(INTERRUPTED_IN_A_FINALIZER.replace("{signal}", name))
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_another_exception_that_python_ignores_is_told() -> None:
    done = ended("""
    class Faulty:
        def __del__(self):
            raise ValueError("worse")
    Faulty()
    return 3
    """)
    assert done.returncode == 3
    assert "ValueError: worse" in done.stderr


def test_output_that_cannot_be_written_is_no_success() -> None:
    done = ended("    sys.stdout = open('/dev/full', 'w')\n    print('lost')\n    return 0")
    assert done.returncode == 120
