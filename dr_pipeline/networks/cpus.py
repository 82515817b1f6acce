"""How many CPUs this process may use: fewer than the machine has, in a container or under taskset."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """CPUs that affinity and the quotas of control groups leave to this process; at least one."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, _quota(_CGROUPS, _OWN_GROUP))))


def _quota(cgroups: Path, own_group: Path) -> float:
    """The least quota of the process's control groups and those above them, in CPUs; infinity where there is none.

    Version 2 of control groups has a quota in `cpu.max`, version 1 in `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    """
    quotas = [math.inf]
    try:
        lines = [line.split(":", 2) for line in own_group.read_text().splitlines()]
    except OSError:
        return math.inf
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        parts = [part for part in path.split("/") if part and part != ".."]
        for folder in (root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)):
            try:
                if controllers:
                    quota, period = (
                        (folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
                    )
                else:
                    quota, period = (folder / "cpu.max").read_text().split()
            except (OSError, ValueError):  # not there, or of a kernel that writes it otherwise
                continue
            if quota.isdecimal() and int(quota) > 0:
                quotas.append(int(quota) / int(period))
    return min(quotas)
