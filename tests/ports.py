"""Ports for the servers of tests."""

import random
import socket
from contextlib import suppress

_PORTS = range(20_000, 32_768)
"""Above those of Ray's workers, and below those that a system gives to connections that go out: such a port may be
another's before its server has it, and who asks there in vain may be connected to itself.
"""


def free_port() -> int:
    """A port of this machine that nobody has, drawn: who asks at the same time hardly gets it too."""
    while True:
        with socket.socket() as server, suppress(OSError):
            server.bind(("127.0.0.1", random.SystemRandom().choice(_PORTS)))
            return server.getsockname()[1]
