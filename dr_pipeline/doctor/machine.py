"""The machine: CPUs, memory, disks and limits, as far as the process may use them."""

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dr_pipeline.config.job import Job
from dr_pipeline.config.training import TrainJob, TuneJob
from dr_pipeline.doctor.examination import AnyJob, Diagnosis, State
from dr_pipeline.networks.cpus import usable_cpus
from dr_pipeline.report.units import in_bytes
from dr_pipeline.storage import cache_folder

_LITTLE_MEMORY_BYTES = 4e9
_LITTLE_SHARED_BYTES = 1e9
_LITTLE_DISK_BYTES, _NO_DISK_BYTES = 10e9, 0.2e9
_LITTLE_ROOM = (
    "free some, or choose another disk: a shard and its output lie there while they are made, and models stay"
)
_FEW_FILES, _TOO_FEW_FILES = 4096, 256
_OUTPUT = "the job's output"
_NEEDED = {"temporary files", _OUTPUT}
_SETTING = {"temporary files": " by TMPDIR", "cache": " by DR_PIPELINE_CACHE"}
"""Folders that cannot be done without, and how others are named in their place."""
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def cpus(job: Job | None) -> Iterator[Diagnosis]:
    """How many CPUs this process may use; a container or Slurm may leave it fewer than there are."""
    usable, present = usable_cpus(), os.cpu_count() or 1
    yield Diagnosis("ok", f"{usable} of {present} may be used" if usable < present else str(usable))


def memory(job: Job | None) -> Iterator[Diagnosis]:
    """The memory that is free, and not more than a control group leaves."""
    lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    free = next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    for limit in map(Path, _MEMORY_LIMITS):
        if limit.exists() and (text := limit.read_text().strip()).isdecimal():
            free = min(free, int(text))
    said = f"{in_bytes(free)} may be used"
    if free >= _LITTLE_MEMORY_BYTES:
        yield Diagnosis("ok", said)
    else:
        yield Diagnosis("warning", said, "free some, or raise the container's limit", "large models do not fit")


def shared_memory(job: Job | None) -> Iterator[Diagnosis]:
    """The size of /dev/shm, where Ray has its objects and loaders of training their batches."""
    total = shutil.disk_usage("/dev/shm").total
    if total >= _LITTLE_SHARED_BYTES:
        yield Diagnosis("ok", in_bytes(total))
    else:
        yield Diagnosis("warning", in_bytes(total), "docker run --shm-size=2g, or an emptyDir with medium: Memory")


def disks(job: AnyJob | None) -> Iterator[Diagnosis]:
    """Whether the folders that are written have room, and may be written: one line for each disk."""
    folders = {
        "the working folder": Path.cwd(),
        "temporary files": Path(tempfile.gettempdir()),
        "cache": cache_folder(),
    }
    if (path := written_by(job)) and "://" not in path:
        folders[_OUTPUT] = Path(path).absolute()
    disks: dict[int, dict[str, Path]] = {}
    for name, folder in folders.items():
        place = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(place, os.W_OK | os.X_OK) or not place.is_dir():
            advice = f"chown or chmod it, or choose another folder{_SETTING.get(name, '')}"
            yield Diagnosis("fails" if name in _NEEDED else "warning", f"{name}: {place} cannot be written", advice)
        disks.setdefault(place.stat().st_dev, {})[name] = place
    for places in disks.values():
        free = min(shutil.disk_usage(place).free for place in places.values())
        said = f"{in_bytes(free)} free for {', '.join(f'{name} {place}' for name, place in places.items())}"
        if free >= _LITTLE_DISK_BYTES:
            yield Diagnosis("ok", said)
        else:
            yield Diagnosis("fails" if free < _NO_DISK_BYTES else "warning", said, _LITTLE_ROOM)


def written_by(job: AnyJob | None) -> str | None:
    """The folder that a job writes; None of an evaluation, and without a job."""
    match job:
        case Job():
            return job.output.path
        case TrainJob():
            return job.run.path
        case TuneJob():
            return job.path
    return None


def open_files(job: Job | None) -> Iterator[Diagnosis]:
    """How many files and connections the process may have open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= _FEW_FILES:
        yield Diagnosis("ok", f"{soft:,}")
    else:
        state: State = "fails" if soft < _TOO_FEW_FILES else "warning"
        yield Diagnosis(state, f"{soft:,}", f"ulimit -n {min(hard, 65536)}", "Ray may end with `too many open files`")
