"""How many cores this process may use: fewer than the machine has, in a container or under taskset."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores that this process is let run on, by its affinity and by its control groups' quotas; at least one."""
    affinity = getattr(os, "sched_getaffinity", None)  # of Linux alone
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota(_CGROUPS, _OWN_GROUP))))


def _quota(cgroups: Path, own_group: Path) -> float:
    """Cores that the control groups allow, the process's own and those above it; infinity where they set no limit."""
    quotas = [math.inf]
    for folder, name in _groups(cgroups, own_group):
        try:
            if name == "cpu.max":
                quota, period = (folder / name).read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{what}_us").read_text().strip() for what in ("quota", "period"))
        except (OSError, ValueError):  # not there, or of a kernel that says it otherwise
            continue
        if quota.isdecimal() and int(quota) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas)


def _groups(cgroups: Path, own_group: Path) -> list[tuple[Path, str]]:
    """The folders that may hold a limit, and the file's name there: cpu.max, or that of the first version."""
    try:
        lines = [line.split(":", 2) for line in own_group.read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root, name = (cgroups / "cpu", "cpu.cfs_quota_us") if controllers else (cgroups, "cpu.max")
        parts = [part for part in path.split("/") if part and part != ".."]
        found += [(root.joinpath(*parts[:depth]), name) for depth in range(len(parts) + 1)]
    return found
