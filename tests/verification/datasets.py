"""A small reinforced dataset, written as a run writes one, with a place to do damage."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dr_pipeline.config.job import Job
from dr_pipeline.dataset import layout, manifest
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.dataset.manifest import SampleRow
from dr_pipeline.dataset.reports import Reports, ShardReport
from dr_pipeline.dataset.tar import TarWriter
from dr_pipeline.storage import Storage
from dr_pipeline.verification.findings import Findings
from dr_pipeline.verification.verify import verify
from dr_pipeline.views.recipe import Recipe
from tests.conftest import make_job, make_sample, write_tar
from tests.tars import Member, group, members_of

SAMPLES_PER_SHARD = 3
Change = Callable[[str, list[Member]], list[Member]]


def sample_members(job: Job, key: str, **synthetic: list[str]) -> list[Member]:
    """One output sample."""
    sample = make_sample(job, key, **synthetic)
    sample.members = layout.encode(sample, job.output, Recipe(job.augmentation))
    return members_of(sample)


def write_shard(job: Job, name: str, members: list[Member]) -> ShardReport:
    """A tar, its table of samples and its report, committed."""
    path = Path(job.output.path) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = TarWriter(file)
        for member in members:
            writer.add(*member)
        digest = writer.close()
    keys = [key for key, _ in group(members)]
    skipped = [f"skipped {index}" for index in range(SAMPLES_PER_SHARD - len(keys))]
    rows = [SampleRow(key, members=3, captions=1) for key in keys]
    rows += [SampleRow(key, members=1, skip_reason="no text") for key in skipped]
    report = ShardReport(
        name=name,
        uri=str(write_input(job, name, keys, skipped)),
        status="done",
        fingerprint=job.fingerprint(),
        num_read=len(rows),
        num_written=SAMPLES_PER_SHARD,
        skipped={"no text": len(skipped)} if skipped else {},
        size_bytes=digest.size_bytes,
        sha256=digest.sha256,
        samples_sha256=manifest.write_sample_table(Storage(), job.output.path, name, rows),
        num_members=sum(row.members for row in rows) + 1,
        passed_over={"name without extension": 1},
    )
    Reports.of(job).commit(report)
    return report


def write_input(job: Job, name: str, keys: list[str], skipped: list[str]) -> Path:
    """What a shard was made of, beside the dataset: the skipped ones are images alone."""
    members = [("README", b"")]
    members += [(f"{key}.{ext}", b"") for key in keys for ext in ("jpg", "txt", "json")]
    members += [(f"{key}.jpg", b"") for key in skipped]
    return write_tar(Path(f"{job.output.path}.in") / name, members)


def write_dataset(folder: Path, change: Change | None = None, num_shards: int = 2, **changes: Any) -> Job:
    """Shards `00/0.tar`, `00/1.tar`, …; `change` alters the members of the samples by key."""
    job = make_job(**changes)
    job = job.model_copy(update={"output": job.output.model_copy(update={"path": str(folder)})})
    config = ConfigJson(job)
    config.claim(force=False)
    table = manifest.ShardTable(Storage(), str(folder))
    for shard in range(num_shards):
        members: list[Member] = []
        for index in range(SAMPLES_PER_SHARD):
            key = f"s{shard}_{index}"
            made = sample_members(job, key)
            members += change(key, made) if change else made
        table.add([write_shard(job, f"00/{shard}.tar", members)])
    config.write_totals(num_shards * SAMPLES_PER_SHARD, table.publish())
    return job


def replace_shard(job: Job, name: str, members: list[Member]) -> None:
    """Another shard in the place of one, as if a run had done it again."""
    table = manifest.ShardTable(Storage(), job.output.path)
    table.carry_over(Reports.of(job).shards() - {name}, job.fingerprint())
    table.add([write_shard(job, name, members)])
    ConfigJson(job).write_totals(table.totals().num_written, table.publish())


def found(uri: Path) -> Findings:
    """What verify finds in a dataset or a tar."""
    return verify(str(uri), Storage())


HIT = "s1_1"
"""The sample that is damaged: of the second shard."""


def replaced(ext: str, alter: Callable[[bytes], bytes]) -> Change:
    """Damage to one member of that sample."""
    return lambda key, members: [(name, alter(data) if name == f"{HIT}.{ext}" else data) for name, data in members]


def replaced_views(alter: Callable[[list[Any]], Any]) -> Change:
    """Damage to its views' parameters: `alter` works in place."""

    def reencode(data: bytes) -> bytes:
        tree = json.loads(data)
        alter(tree["param_aug"])
        return json.dumps(tree).encode()

    return replaced("paug.json", reencode)


def altered_tensors(alter: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[bytes], bytes]:
    """A change of the embeddings of a `pth.gz`: `alter` works in place."""

    def reencode(data: bytes) -> bytes:
        content = torch.load(io.BytesIO(gzip.decompress(data)), weights_only=True)
        alter(content)
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return gzip.compress(buffer.getvalue(), 1)

    return reencode


NO_IMAGES = "none of its samples holds its image, so no view was checked: --base names the dataset that does"
