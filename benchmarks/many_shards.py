"""What a million shards cost the driver: planning, resuming, writing the manifest, and handing them out through Ray.

    python benchmarks/many_shards.py [--quick]

The input is a tree of sparse files, 10,000 to a folder, and the finished shards' reports are real ones, so planning and
resuming do what they do for a dataset on a local disk; no shard is read. Each figure is taken in a process of its own:
wall and CPU seconds of the work alone, and the peak of its memory above a process that only imports the same modules.
The growth exponent is the slope of the least-squares line of log CPU seconds over log shards, for the sizes from 10,000
on: below, what does not grow weighs too much. The Ray actors return their report at once.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import cpu_seconds, figure, wall_seconds

SIZES, QUICK_SIZES = (1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000)
RAY_SIZES, QUICK_RAY_SIZES = (1_000, 20_000), (1_000, 5_000)
SHARDS_TO_A_FOLDER = 10_000
SHARD_BYTES = 1_400_000_000
MIB = 2**20
ReadBack = Callable[[Any, Any, set[str]], None]


def job(folder: Path) -> Any:
    """A job with Ray actors that need nothing but one core each."""
    from dr_pipeline.config.job import Job

    return Job.model_validate(
        {
            "name": "many",
            "input": {"shards": f"{folder}/in", "root": f"{folder}/in"},
            "output": {"path": f"{folder}/out"},
            "teachers": [{"name": "none", "use": "nowhere:None", "dim": 768}],
            "workers": {"min": 2, "max": 2, "cpus": 1, "gpus": 0},
        }
    )


def names(start: int, end: int) -> Iterator[str]:
    """Shards as they are named in large datasets."""
    return (f"{number // SHARDS_TO_A_FOLDER:04d}/{number:08d}.tar" for number in range(start, end))


def report(name: str, fingerprint: str) -> Any:
    """A finished shard's report, as large as a real one."""
    from dr_pipeline.dataset.reports import ShardReport

    stages = ("read", "decode", "draw", "render", "caption", "embed_images", "embed_texts", "encode", "total")
    return ShardReport(
        name=name,
        uri=f"s3://bucket/dataset/{name}",
        status="done",
        fingerprint=fingerprint,
        num_read=10_000,
        num_written=9_990,
        num_views=299_700,
        num_synthetic=49_950,
        skipped={"bad image": 7, "no text": 3},
        size_bytes=SHARD_BYTES,
        sha256="0123456789abcdef" * 4,
        seconds=dict.fromkeys(stages, 123.456),
    )


def make_input(folder: Path, num_shards: int) -> None:
    """Files of a shard's size that occupy nothing."""
    for name in names(0, num_shards):
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(SHARD_BYTES)


def make_reports(folder: Path, num_shards: int) -> None:
    """The commits of the first shards."""
    fingerprint = job(folder).fingerprint()
    for name in names(0, num_shards):
        path = folder / "out" / "reports" / fingerprint / f"{name.removesuffix('.tar')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(report(name, fingerprint).to_json())


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall: list[float] = []
    cpu = cpu_seconds(lambda: wall.append(wall_seconds(work)))
    return wall[0], cpu


def plan(folder: Path, num_shards: int) -> tuple[float, float]:
    """Planning, half of the shards done if their reports are there."""
    from dr_pipeline.dataset.plan import make_plan

    plans = []
    seconds = timed(lambda: plans.append(make_plan(job(folder))))
    assert len(plans[0].todo) + len(plans[0].done) == num_shards
    return seconds


def manifest_of_a_run(folder: Path, num_shards: int) -> tuple[float, float]:
    """The manifest's rows of a run that does every shard."""
    return _manifest(folder, 0, num_shards, lambda table, reports, left: None)


def manifest_of_a_resumed_run(folder: Path, num_shards: int) -> tuple[float, float]:
    """The same for a run that does the second half; the rows of the first are in the manifest already."""
    _manifest(folder, 0, num_shards // 2, lambda table, reports, left: None)
    return _manifest(folder, num_shards // 2, num_shards, lambda table, reports, left: None)


def manifest_after_a_kill(folder: Path, num_shards: int) -> tuple[float, float]:
    """The same without a manifest: the reports of the first half are read back."""
    return _manifest(folder, num_shards // 2, num_shards, lambda table, reports, left: table.add(reports.read(left)))


def _manifest(folder: Path, start: int, end: int, read_back: ReadBack) -> tuple[float, float]:
    from dr_pipeline.dataset.manifest import ShardTable
    from dr_pipeline.dataset.reports import Reports
    from dr_pipeline.storage import Storage

    fingerprint = job(folder).fingerprint()
    earlier = set(names(0, start))

    def work() -> None:
        table = ShardTable(Storage(), f"{folder}/out")
        left = table.carry_over(earlier, fingerprint)
        for name in names(start, end):
            table.add([report(name, fingerprint)])
        read_back(table, Reports.of(job(folder)), left)
        table.publish()
        assert table.totals().num_shards == end

    return timed(work)


def nothing(folder: Path, num_shards: int) -> tuple[float, float]:
    """Imports alone."""
    return 0.0, 0.0


class NoOp:
    """A worker that has nothing to do."""

    def __init__(self, job: Any, log_level: int):
        self._fingerprint = job.fingerprint()

    def load(self) -> tuple[str, ...]:
        """No models; the runner wants something to show for it."""
        return ("none",)

    def run(self, task: Any) -> Any:
        """The report of a finished shard."""
        return report(task.name, self._fingerprint)


def through_ray(folder: Path, sizes: tuple[int, ...]) -> None:
    """Figures for shards handed out one by one to two actors, with the table of shards that a run keeps."""
    from dr_pipeline.dataset.manifest import ShardTable
    from dr_pipeline.dataset.reports import ShardTask
    from dr_pipeline.runners.on_ray import RayRunner
    from dr_pipeline.storage import Storage

    first_rate = None
    for num_shards in (100, *sizes):  # the first is for warming up
        runner, table = RayRunner(job(folder), NoOp), ShardTable(Storage(), f"{folder}/out")
        runner.start()
        tasks = [ShardTask(name, f"s3://bucket/dataset/{name}", SHARD_BYTES) for name in names(0, num_shards)]
        before, started = _memory_mib(), time.perf_counter()
        for ended in runner.run(tasks):
            table.add([ended])
        rate = num_shards / (time.perf_counter() - started)
        runner.close()
        assert table.totals().num_shards == num_shards
        if num_shards in sizes:
            first_rate = first_rate or rate
            figure(f"{num_shards:,} shards through Ray, a second", rate, first_rate, rate / first_rate)
            figure(f"{num_shards:,} shards through Ray, growth of the driver, MiB", _memory_mib() - before)


def _memory_mib() -> float:
    """This process's memory now, not its peak."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


MEASURES = {
    work.__name__: work for work in (nothing, plan, manifest_of_a_run, manifest_of_a_resumed_run, manifest_after_a_kill)
}


def measure_here(name: str, folder: Path, num_shards: int) -> None:
    """The child's part: one measure, printed with the peak of this process."""
    import dr_pipeline.runners.run  # noqa: F401  (imports are no part of the figure)

    wall, cpu = MEASURES[name](folder, num_shards)
    print(json.dumps([wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def measure(name: str, folder: Path, num_shards: int) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of a measure in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder), "--shards", str(num_shards)]
    wall, cpu, peak_mib = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return wall, cpu, peak_mib


def planning(sizes: tuple[int, ...]) -> None:
    """Figures of planning and writing the manifest at every size, and how they grow."""
    measured: dict[str, list[tuple[int, float]]] = {}
    for num_shards in sizes:
        with tempfile.TemporaryDirectory(prefix="many-shards-") as folder:
            for title, cpu in figures_of_a_size(Path(folder), num_shards):
                measured.setdefault(title, []).append((num_shards, cpu))
    for title, points in measured.items():
        if len(grown := [point for point in points if point[0] >= 10_000]) > 1:
            figure(f"{title}, growth exponent", exponent(grown))


def figures_of_a_size(folder: Path, num_shards: int) -> Iterator[tuple[str, float]]:
    """Print the figures; title and CPU seconds of each."""
    make_input(folder, num_shards)
    *_, idle_mib = measure("nothing", folder, num_shards)
    for title, name in (
        ("plan", "plan"),
        ("plan with half of them done", "plan"),
        ("manifest after a kill, half of the reports read back", "manifest_after_a_kill"),
        ("manifest of a resumed run", "manifest_of_a_resumed_run"),
        ("manifest", "manifest_of_a_run"),
    ):
        if title == "plan with half of them done":
            make_reports(folder, num_shards // 2)
        wall, cpu, peak_mib = measure(name, folder, num_shards)
        figure(f"{title}, {num_shards:,} shards, s", wall)
        figure(f"{title}, {num_shards:,} shards, CPU s", cpu)
        figure(f"{title}, {num_shards:,} shards, peak MiB", peak_mib - idle_mib)
        yield title, cpu


def exponent(points: list[tuple[int, float]]) -> float:
    """The slope of the least-squares line through (log n, log seconds)."""
    logs = [(math.log(n), math.log(seconds)) for n, seconds in points]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def main() -> None:
    """All figures, or in a child process one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 10,000 shards, 5,000 through Ray")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shards", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_here(options.measure, options.folder, options.shards)
        return
    planning(QUICK_SIZES if options.quick else SIZES)
    with tempfile.TemporaryDirectory(prefix="many-shards-") as folder:
        through_ray(Path(folder), QUICK_RAY_SIZES if options.quick else RAY_SIZES)


if __name__ == "__main__":
    main()
