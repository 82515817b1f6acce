"""A dataset's page from a real server: the verb in a process of its own."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from dr_pipeline.report.serve.walk import PAGE_SAMPLES


@dataclass(frozen=True)
class Answer:
    """What a server answers."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A running server."""

    address: str
    """As it prints it, with the token."""
    process: subprocess.Popen[str]

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:PORT`."""
        parts = urlsplit(self.address)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def cookie(self) -> str:
        """The cookie that the address gives."""
        return get(self.address).headers["Set-Cookie"].partition(";")[0]

    def ask(self, path: str, **parameters: Any) -> Answer:
        """The answer to whoever has the cookie."""
        return get(f"{self.origin}/{path}?{urlencode(parameters)}", Cookie=self.cookie)

    def page(self, at: str = "0.0") -> tuple[list[Any], Any]:
        """Ten samples, or those that are left, and where the next ones begin: asked for again and again, for an answer
        has what was found in a second.
        """
        found = self.ask("samples", at=at).json
        samples, after = found["samples"], found["next"]
        while after and len(samples) < PAGE_SAMPLES:
            found = self.ask("samples", at="{}.{}".format(*after), most=PAGE_SAMPLES - len(samples)).json
            samples, after = samples + found["samples"], found["next"]
        return samples, after


def get(url: str, **headers: str) -> Answer:
    """One request; refusals are answers too."""
    try:
        with urlopen(Request(url, headers=headers), timeout=60) as reply:
            return Answer(reply.status, reply.headers, reply.read())
    except HTTPError as error:
        return Answer(error.code, error.headers, error.read())


@contextmanager
def served(uri: str, *options: str) -> Iterator[Server]:
    """The server of a dataset for the block. At its end an interrupt ends it."""
    command = [sys.executable, "-m", "dr_pipeline", "look", uri, "--serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().strip()
            assert address, process.communicate()[1]
            yield Server(address, process)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                _, errors = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:  # where interrupts are ignored, as below `nohup`
                process.kill()
                raise
    assert (process.returncode, errors) == (130, "stopped\n")
