"""The demo's job in small, for tests that run it: a few scenes, the trained teachers, few views."""

import hashlib
from pathlib import Path

from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load
from dr_pipeline.demo.scenes import write_scenes

REPOSITORY = Path(__file__).parent.parent
QUICKSTART = REPOSITORY / "jobs" / "quickstart.yaml"


def small(shards: str | Path, output: str | Path) -> list[str]:
    """Overrides that make the quickstart job small."""
    return [
        f"input.shards={shards}",
        f"output.path={output}",
        "workers.engine=local",
        "augmentation.num_views=3",
        "captioners.0.num_captions=2",
        "workers.view_batch=12",
    ]


def demo_job(shards: str | Path, output: str | Path, *overrides: str) -> Job:
    """The quickstart job on these shards, in this process unless an override says otherwise."""
    return load(QUICKSTART, Job, [*small(shards, output), *overrides])


def make_scenes(folder: Path, num_shards: int = 3, samples_per_shard: int = 5) -> Path:
    """Shards of generated scenes."""
    write_scenes(folder, num_shards=num_shards, samples_per_shard=samples_per_shard, seed=7)
    return folder


def digests(output: str | Path) -> dict[str, str]:
    """Relative path → SHA-256 of every published tar."""
    root = Path(output)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.tar"))
    }


class Silent:
    """An observer that keeps the reports and shows nothing."""

    def __init__(self) -> None:
        self.reports: list = []

    def planned(self, plan: object) -> None:
        """The run begins."""

    def progressed(self, snapshot: object) -> None:
        """It goes on."""

    def reported(self, report: object) -> None:
        """Keep it."""
        self.reports.append(report)
