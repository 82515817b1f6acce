"""The cores that a process may use: by affinity, and by the quotas of both versions of control groups."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dr_pipeline.networks.cpus import _quota, usable_cpus


def write(folder: Path, own_group: str, files: dict[str, str]) -> float:
    """The quota that these files say, given what /proc/self/cgroup does."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "self").write_text(own_group)
    return _quota(folder, folder / "self")


@pytest.mark.parametrize(
    ("own_group", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {}, math.inf),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/../c\n", {"cpu.max": "300000 100000\n"}, 3.0),
        (
            "5:cpu,cpuacct:/d\n4:memory:/e\n",
            {"cpu/d/cpu.cfs_quota_us": "400000\n", "cpu/d/cpu.cfs_period_us": "100000\n"},
            4.0,
        ),
        (
            "5:cpu,cpuacct:/d\n",
            {"cpu/d/cpu.cfs_quota_us": "-1\n", "cpu/d/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
    ],
)
def test_quotas(own_group: str, files: dict[str, str], cores: float, tmp_path: Path) -> None:
    assert write(tmp_path, own_group, files) == cores


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert _quota(tmp_path, tmp_path / "absent") == math.inf


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone has it")
def test_affinity() -> None:
    code = "import os; from dr_pipeline.networks.cpus import usable_cpus; a = sorted(os.sched_getaffinity(0))\n"
    code += "os.sched_setaffinity(0, a[:1]); print(usable_cpus())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "1\n"
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)
