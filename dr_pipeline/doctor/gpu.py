"""GPUs: what the driver has, what torch sees of it, and what Triton needs to compile its kernels."""

import os
import re
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dr_pipeline.config.job import Job
from dr_pipeline.doctor.examination import Diagnosis
from dr_pipeline.report.units import in_bytes

_ON_CPU = "no GPU: jobs run on the CPU in float32"


@dataclass(frozen=True)
class Driver:
    """The driver of NVIDIA, and what it has on this machine."""

    version: str
    cuda: tuple[int, int]
    """The newest CUDA that it runs."""
    gpus: tuple[str, ...]
    """Name, memory and compute capability of each."""


def read_driver() -> Driver | None:
    """What the driver tells; None where there is none."""
    try:
        import pynvml
    except ImportError:  # it is required on Linux alone
        return None
    try:
        pynvml.nvmlInit()
        newest = pynvml.nvmlSystemGetCudaDriverVersion()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        gpus = tuple(map(_described, handles))
        return Driver(pynvml.nvmlSystemGetDriverVersion(), (newest // 1000, newest % 1000 // 10), gpus)
    except pynvml.NVMLError:
        return None


def _described(handle: object) -> str:
    import pynvml

    name, memory = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetMemoryInfo(handle).total
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    mig = ""
    with suppress(pynvml.NVMLError):  # of a GPU that cannot be divided
        mig = ", divided by MIG" if pynvml.nvmlDeviceGetMigMode(handle)[0] else ""
    return f"{name} ({in_bytes(memory)}, compute capability {major}.{minor}{mig})"


def gpus(job: Job | None) -> Iterator[Diagnosis]:
    """Whether torch computes on the GPUs that the driver has."""
    import torch

    driver, build, shown = read_driver(), _build(), os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if driver is None or not driver.gpus:
        if seen:  # such as AMD's, which this driver does not know
            yield Diagnosis("ok", f"{seen}, by torch {build}")
        else:
            yield Diagnosis("ok", f"none; torch {build}", lacks=_ON_CPU)
        return
    said = (
        f"{'; '.join(driver.gpus)}; driver {driver.version} for CUDA {driver.cuda[0]}.{driver.cuda[1]}; torch {build}"
    )
    if seen == len(driver.gpus):
        yield _for_this_torch(said)
    elif seen or shown is not None:
        fact = f"{said}; torch sees {seen}: CUDA_VISIBLE_DEVICES is {'unset' if shown is None else shown}"
        yield Diagnosis("ok", fact) if seen else Diagnosis("warning", fact, "unset CUDA_VISIBLE_DEVICES", _ON_CPU)
    else:
        yield Diagnosis("fails", f"{said}; torch sees none", how_to_see(driver), _ON_CPU)


def _build() -> str:
    import torch

    return f"{torch.__version__} ({f'CUDA {torch.version.cuda}' if torch.version.cuda else torch.version.hip or 'CPU'})"


def _for_this_torch(said: str) -> Diagnosis:
    """Whether torch has kernels for the GPUs' architecture; a newer one of the same generation runs older kernels."""
    import torch

    kernels = torch.cuda.get_arch_list()
    generations = {found[1] for name in kernels if (found := re.match(r"sm_(\d+)\d", name))}
    others = {torch.cuda.get_device_capability(index)[0] for index in range(torch.cuda.device_count())}
    missing = {str(major) for major in others} - generations
    can_compile = any(name.startswith("compute_") for name in kernels)  # which the driver does for a newer GPU
    if missing and torch.version.cuda and not can_compile:
        fact = f"{said}: this torch has no kernels for compute capability {', '.join(missing)}.x"
        return Diagnosis("fails", fact, "install a torch that has them: https://pytorch.org/get-started", _ON_CPU)
    return Diagnosis("ok", said)


def how_to_see(driver: Driver) -> str:
    """Why torch sees no GPU of the driver's."""
    import torch

    if not torch.version.cuda:
        return "this torch is built for the CPU: pip install torch torchvision from the index for CUDA"
    wanted = tuple(map(int, torch.version.cuda.split(".")[:2]))
    if wanted[0] > driver.cuda[0]:
        return f"update the driver: this torch wants CUDA {torch.version.cuda}; or install a torch for an older CUDA"
    return "look at `nvidia-smi`; in a container, run it with --gpus all and the NVIDIA container toolkit"


def compiler(job: Job | None) -> Iterator[Diagnosis]:
    """Whether Triton can compile: it builds a small part of each kernel with a C compiler, on the first launch."""
    import torch

    if not torch.cuda.is_available():
        yield Diagnosis("ok", "not needed without a GPU")
        return
    import triton

    found = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if found is None:
        yield Diagnosis("fails", f"Triton {triton.__version__}, but no C compiler", "apt-get install gcc, or set CC")
    elif not header.exists():
        yield Diagnosis(
            "fails", f"Triton {triton.__version__} and {found}, but no {header}", "apt-get install python3-dev"
        )
    else:
        yield Diagnosis("ok", f"Triton {triton.__version__} with {found}")
