"""Every benchmark in its quick form, and their figures as a table in README.md.

python benchmarks/run_all.py
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE / "README.md"
BUDGETS_S = {
    "view_cost": 20,
    "damage": 4,
    "caption_speed": 80,
    "text_speed": 40,
    "endpoint": 40,
    "write_cost": 15,
    "memory": 65,
    "student_cost": 45,
    "overlap": 90,
    "many_shards": 40,
    "whole_job": 105,
    "scaling": 95,
}
"""Script → seconds that its quick form takes at most on two idle cores: less than eleven minutes together."""
PATIENCE = 3  # times that, because the machine may be busy
LEFT_OUT = {
    "learning_efficiency": "its figures mean something after 20 trainings only: 50 minutes, by hand",
    "longer_texts": "it trains 13 times: ten minutes, by hand",
    "calibration": "the ten minutes are full: by hand",
    "chat_speed": "the ten minutes are full: by hand",
    "open_clip_sweep": "it compares and times nothing: by hand",
    "scaling_model": "it measures nothing",
    "gpu": "it needs a GPU: by hand",
    "teacher_kinds": "a minute and its models, by hand",
}
PACKAGES = ("torch", "torchvision", "open_clip_torch", "pillow", "numpy", "isal", "ray")
TABLE = re.compile(r"(?<=<!-- quick figures -->\n).*(?=<!-- end of quick figures -->)", re.DOTALL)

Figure = dict[str, Any]


def run_quick(script: str) -> tuple[list[Figure], str | None]:
    """A script's figures, and what went wrong."""
    command = [sys.executable, str(HERE / f"{script}.py"), "--quick"]
    patience_s = PATIENCE * BUDGETS_S[script]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=patience_s, check=False)
    except subprocess.TimeoutExpired as error:
        printed = error.stdout.decode() if error.stdout else ""
        return read_figures(printed), f"stopped after {patience_s} s"
    return read_figures(done.stdout), f"exit code {done.returncode}" if done.returncode else None


def read_figures(printed: str) -> list[Figure]:
    """The JSON lines among what a script printed."""
    return [json.loads(line) for line in printed.splitlines() if line.startswith('{"metric"') and line.endswith("}")]


def row(script: str, figure: Figure) -> str:
    """A line of the table."""
    numbers = (rounded(figure[column]) for column in ("value", "baseline", "ratio"))
    return f"| `{script}` | {figure['metric']} | {' | '.join(numbers)} |"


def rounded(number: float | None) -> str:
    """Three significant digits, no exponent where a person would write none."""
    if number is None:
        return ""
    if number and not 1e-3 <= abs(number) < 1e9:
        return f"{number:.1e}"
    digits = f"{number:.3g}"
    return f"{float(digits):,.0f}" if "e" in digits or abs(number) >= 100 else digits


def machine() -> str:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    cores = f"{os.cpu_count()} cores of {model[1] if model else platform.processor()}, {gibibytes:.0f} GiB"
    return f"{date.today()}, {cores}; Python {platform.python_version()}, {packages}."


def table(rows: list[str]) -> str:
    """The section of README.md."""
    head = "| script | figure | value | baseline | ratio |\n| --- | --- | --- | --- | --- |\n"
    left_out = [f"| `{script}` | left out: {why} | | | |" for script, why in LEFT_OUT.items()]
    return f"{machine()}\n\n{head}" + "\n".join([*rows, *left_out]) + "\n\n"


def write_section(text: str, section: str) -> str:
    """The page with its section replaced. Raises ValueError where the page lacks the marks."""
    if not TABLE.search(text):
        raise ValueError(f"{README} lacks the marks of the quick figures")
    return TABLE.sub(lambda _: section, text)


def main() -> None:
    rows: list[str] = []
    failures: list[str] = []
    for script in BUDGETS_S:
        print(f"{script} …", flush=True)
        begun = time.monotonic()
        figures, problem = run_quick(script)
        rows += [row(script, figure) for figure in figures]
        for figure in figures:
            print(f"  {figure['metric']}: {rounded(figure['value'])}, ratio {rounded(figure['ratio']) or 'none'}")
        print(
            f"  {time.monotonic() - begun:.0f} of {BUDGETS_S[script]} s{f', {problem}' if problem else ''}", flush=True
        )
        if problem:
            failures.append(f"{script}: {problem}")
            rows.append(f"| `{script}` | {problem} | | | |")
    README.write_text(write_section(README.read_text(), table(rows)))
    sys.exit("\n".join(failures) or None)


if __name__ == "__main__":
    main()
