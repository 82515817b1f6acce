"""What one GPU does with the models and the whole job, each figure beside its bare baseline in the same run.

    python benchmarks/gpu.py [--only views,teachers,…] [--seconds 360] [--dry]

Real architectures with random weights: two ViT-L/14, coca_ViT-L-14, MobileCLIP2-S0; 640 × 480 JPEGs; the recipe of
jobs/reinforce_dfn.yaml in the local engine. No network and no Ray. The sections are in on_gpu/; each runs in a process
of its own, so that one that fails or outlasts its seconds leaves the others alone. JSON lines on stdout, a table at the
end. `--dry` runs everything tiny, on a CPU too: its figures mean nothing.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from photos import photo

Message = dict[str, Any]


class Section(NamedTuple):
    """A module of on_gpu/, its function, and how large a share of the run's seconds it has."""

    module: str
    function: str
    share: int


SECTIONS = {
    "ceilings": Section("ceilings", "measure", 5),
    "teachers": Section("teachers", "measure", 40),
    "captions": Section("captions", "measure", 35),
    "texts": Section("texts", "measure", 20),
    "job": Section("job", "measure", 75),
    "peer": Section("peer", "measure", 30),
    "student": Section("student", "measure", 80),
    "views": Section("views", "measure", 15),
    "autotune": Section("teachers", "tune", 200),
}
"""In order: what later sections compare with comes before them. What a section leaves of its share is shared by those
after it."""
DEFAULT = [name for name in SECTIONS if name != "autotune"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one GPU.")
    parser.add_argument("--only", default=",".join(DEFAULT), help=f"some of {', '.join(SECTIONS)}")
    parser.add_argument("--seconds", type=float, default=360, help="for all sections, which share them")
    parser.add_argument("--dry", action="store_true", help="everything tiny, on a CPU too")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    chosen = arguments.only.split(",")
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        parser.error(f"--only: no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if arguments.dry:
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it where a kernel is defined, its own too
    for module in ("torch", "open_clip", *(f"on_gpu.{SECTIONS[name].module}" for name in chosen)):
        with suppress(ImportError):  # once for all sections, as is the painting of photos; a section says what it lacks
            import_module(module)
    for index in range(4 if arguments.dry else 24):
        photo(index)
    bare: dict[str, float] = {}
    lines: list[Message] = []
    for place, name in enumerate(chosen):
        share = SECTIONS[name].share / sum(SECTIONS[later].share for later in chosen[place:])
        lines += run(name, arguments.dry, bare, share * (end - time.monotonic()))
    print(table(lines), flush=True)
    sys.exit("\n".join(f"{line['section']}: {line['error']}" for line in lines if "error" in line) or None)


def run(name: str, dry: bool, bare: dict[str, float], limit: float) -> list[Message]:
    """A section's lines, printed as they come, in `limit` seconds; `bare` is what sections remember for others."""
    if limit < 0:
        return [told(name, {"figure": "all", "error": "no seconds were left"})]
    context = get_context("fork")  # nothing here has touched the GPU
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(name, dry, dict(bare), sender))
    begun = time.monotonic()
    process.start()
    sender.close()
    lines = []
    try:
        while receiver.poll(max(0.0, begun + limit - time.monotonic())):
            message = receiver.recv()
            if "bare" in message:
                bare[message["bare"]] = message["seconds"]
            else:
                lines.append(told(name, message))
        lines.append(told(name, {"figure": "all", "error": f"stopped after {limit:.0f} s"}))
        process.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    except EOFError:
        pass
    process.join()
    if process.exitcode and not any("error" in line for line in lines):
        lines.append(told(name, {"figure": "all", "error": f"exit code {process.exitcode}"}))
    lines.append(told(name, {"figure": "the section itself", "value": time.monotonic() - begun, "unit": "s"}))
    return lines


def told(name: str, message: Message) -> Message:
    """The line, printed."""
    line = {"section": name, **message}
    print(json.dumps(line), flush=True)
    return line


def work(name: str, dry: bool, bare: dict[str, float], sender: Connection) -> None:
    """In the section's process."""
    os.setsid()  # its loaders and its compilers end with it
    try:
        measure(SECTIONS[name], name, dry, bare, sender)
    except Exception as error:
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        sender.send({"figure": "all", "error": f"{type(error).__name__}: {error}"[:300]})


def measure(section: Section, name: str, dry: bool, bare: dict[str, float], sender: Connection) -> None:
    """Call its function. Raises what that raises, and RuntimeError without a GPU."""
    import torch
    from on_gpu.bench import Bench

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    if device == "CPU" and not dry:
        raise RuntimeError("there is no GPU; --dry runs on a CPU")
    bench = Bench(name, dry, lambda message: sender.send({**message, "device": device}), bare)
    getattr(import_module(f"on_gpu.{section.module}"), section.function)(bench)


def table(lines: list[Message]) -> str:
    """All figures for a reader."""
    rows = [
        f"{line['section']:9}  {line['figure'][:66]:66}  {shown(line.get('value')):>10} {line.get('unit') or '':10}"
        f" {shown(line.get('baseline')):>10}  {shown(line.get('ratio')):>8}  {line.get('error', '')}".rstrip()
        for line in lines
    ]
    head = f"{'section':9}  {'figure':66}  {'value':>10} {'unit':10} {'baseline':>10}  {'ratio':>8}"
    return "\n".join([head, *rows])


def shown(number: float | None) -> str:
    """Four digits."""
    return "" if number is None else f"{number:.4g}" if abs(number) < 1e4 else f"{number:,.0f}"


if __name__ == "__main__":
    main()
