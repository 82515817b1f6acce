"""How a process ends: with its command's exit code, whatever threads and processes of ours are still alive."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = 130
"""A shell's exit code of what SIGINT has ended."""

_CANNOT_BE_WRITTEN = 120
"""The interpreter's own exit code when standard output cannot be flushed."""

_REPEAT_SECONDS = 0.1


def end_with(command: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with the code that it returns, or that its exception stands for.

    What is registered to run at exit runs; then the process is gone at once. The interpreter is not taken apart, as
    after `sys.exit`: a thread of C++ (pyarrow's, gloo's, torch's) that wants it meanwhile is unwound by force, which
    aborts the process, and a thread that has a batch of minutes on the device would be waited for. SIGTERM, which job
    managers send, is an interrupt as Ctrl-C is, and one that the interpreter ignores is sent again.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.unraisablehook = _interrupt_again
    try:
        code = command()
    except SystemExit as error:
        code = _code_of(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = INTERRUPTED
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    for process in multiprocessing.active_children():  # one that still starts would miss what is removed at exit
        process.kill()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or _CANNOT_BE_WRITTEN
    os._exit(code)


def _code_of(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def _interrupt_again(ignored: "sys.UnraisableHookArgs") -> None:
    """Send an interrupt again that came where nothing can be raised: in a finalizer, or a compiled module's import."""
    if isinstance(ignored.exc_value, KeyboardInterrupt):
        threading.Timer(_REPEAT_SECONDS, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(ignored)
